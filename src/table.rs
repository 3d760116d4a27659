//! Tables of plain text: columns as wide as their widest cell, two spaces between them.

/// Lays out `rows` below `header`; every row has as many cells as the header.
pub fn layout(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row.iter().zip(&widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["kubelet".to_owned(), "1".to_owned()],
            vec!["x".to_owned(), "22".to_owned()],
        ];
        assert_eq!(
            super::layout(&["WHAT", "N"], &rows),
            "WHAT     N\nkubelet  1\nx        22\n"
        );
    }
}
