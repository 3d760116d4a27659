//! Bodies that are longer, shorter, slower or others than they should be.

use std::time::Duration;

use bundle_spec::Sha256;
use kpot::fetch::http::Size;

use super::support::raw::{Raw, answer, dripping, head, ranged, start, without_end};
use super::support::upstream::content;
use super::{client, get, hasty, is, network, refused, save};

#[test]
fn a_body_without_end_is_cut_at_its_limit() {
    let plain = Raw::start(|_, _, wire| {
        head(wire, "200 OK", "")?;
        without_end(wire, &[b'x'; 4096])
    });
    let chunked = Raw::start(|_, _, wire| {
        head(wire, "200 OK", "Transfer-Encoding: chunked\r\n")?;
        without_end(wire, format!("1000\r\n{}\r\n", "x".repeat(4096)).as_bytes())
    });
    for server in [plain, chunked] {
        let words = ["more than"];
        refused(
            get(&client(network()), &server.url(), 1 << 20),
            &server.url(),
            &words,
        );
        for size in [Size::AtMost(1 << 20), Size::Exactly(1 << 20)] {
            refused(
                save(&client(network()), &server.url(), size),
                &server.url(),
                &words,
            );
        }
        assert_eq!(server.seen().len(), 3, "another try gives the same");
    }
}

#[test]
fn a_body_longer_or_shorter_than_said_is_refused() {
    let server = Raw::start(|_, _, wire| answer(wire, "200 OK", "", [b'x'; 1000]));
    for (size, words) in [
        (Size::Exactly(999), "1000 bytes instead of 999"),
        (Size::Exactly(1001), "1000 bytes instead of 1001"),
        (Size::AtMost(999), "limit of 999"),
    ] {
        refused(
            save(&client(network()), &server.url(), size),
            &server.url(),
            &[words],
        );
    }
    assert_eq!(server.seen().len(), 3, "another try gives the same");
    // Without a stated length it may have been cut: that is tried again.
    let server = Raw::start(|_, _, wire| {
        head(wire, "200 OK", "")?;
        wire.write_all(&[b'x'; 1000])
    });
    let saved = save(&client(network()), &server.url(), Size::Exactly(1001));
    refused(
        saved,
        &server.url(),
        &["1000 bytes instead of 1001", "tried 3 times"],
    );
}

#[test]
fn wrong_bytes_of_the_right_size_have_another_digest() {
    let server = Raw::start(|_, _, wire| answer(wire, "200 OK", "", [b'x'; 1000]));
    let saved = save(&client(network()), &server.url(), Size::Exactly(1000)).unwrap();
    assert_eq!(
        saved.sha256,
        Sha256::of(&[b'x'; 1000]),
        "the digest is of what came"
    );
}

#[test]
fn a_stall_after_any_number_of_bytes_is_gone_on_from() {
    let body = content("stall", 300_000);
    let served = body.clone();
    let server = Raw::start(move |request, before, wire| match before {
        0 | 1 => {
            let start = start(request).unwrap_or(0);
            let status = if start == 0 { "200 X" } else { "206 X" };
            let length = served.len() - start;
            let range = format!(
                "Content-Range: bytes {start}-{}/{}",
                served.len() - 1,
                served.len()
            );
            head(
                wire,
                status,
                &format!("ETag: \"x\"\r\n{range}\r\nContent-Length: {length}\r\n"),
            )?;
            wire.write_all(&served[start..start + 100_000])?;
            wire.flush()?;
            std::thread::sleep(Duration::from_secs(10));
            Ok(())
        }
        _ => ranged(wire, request, "\"x\"", &served),
    });
    is(
        save(&client(hasty()), &server.url(), Size::Exactly(300_000)),
        &body,
    );
    let starts: Vec<_> = server.seen().iter().map(start).collect();
    assert_eq!(starts, [None, Some(100_000), Some(200_000)]);
}

#[test]
fn a_server_that_never_sends_a_byte_is_given_up() {
    let server = Raw::start(|_, _, wire| {
        head(wire, "200 X", "Content-Length: 1000\r\n")?;
        std::thread::sleep(Duration::from_secs(10));
        Ok(())
    });
    let saved = save(&client(hasty()), &server.url(), Size::AtMost(1000));
    refused(saved, &server.url(), &["nothing came for", "tried 3 times"]);
}

#[test]
fn one_byte_at_a_time_is_too_slow() {
    let server = Raw::start(|_, _, wire| {
        head(wire, "200 X", "ETag: \"x\"\r\nContent-Length: 100000\r\n")?;
        dripping(wire, &vec![b'x'; 100_000], Duration::from_millis(100))
    });
    let words = ["fewer than 2000", "tried 3 times"];
    let saved = save(&client(hasty()), &server.url(), Size::AtMost(1 << 20));
    refused(saved, &server.url(), &words);
    refused(
        get(&client(hasty()), &server.url(), 1 << 20),
        &server.url(),
        &words,
    );
}

#[test]
fn another_range_than_was_asked_for_is_not_taken() {
    let body = content("range", 100_000);
    for range in [
        "bytes 0-99999/100000",
        "bytes 49999-99999/100000",
        "bytes 50001-99999/100000",
        "bytes 50000-99999/99999",
        "bytes 50000-49999/100000",
        "bytes 50000-",
        "none",
    ] {
        let served = body.clone();
        let server = Raw::start(move |request, before, wire| match before {
            0 => {
                head(wire, "200 X", "ETag: \"x\"\r\nContent-Length: 100000\r\n")?;
                wire.write_all(&served[..50_000])
            }
            1 => answer(
                wire,
                "206 X",
                &format!("ETag: \"x\"\r\nContent-Range: {range}\r\n"),
                &served[50_000..],
            ),
            _ => ranged(wire, request, "\"x\"", &served),
        });
        is(
            save(&client(network()), &server.url(), Size::AtMost(1 << 20)),
            &body,
        );
        let starts: Vec<_> = server.seen().iter().map(start).collect();
        assert_eq!(starts, [None, Some(50_000), None], "{range}");
    }
}

#[test]
fn a_part_that_ends_early_is_gone_on_from_and_a_longer_one_is_not_taken() {
    let body = content("part", 100_000);
    for (sent, expected) in [
        (10_000, [None, Some(50_000), Some(60_000)]),
        (50_000, [None, Some(50_000), None]),
    ] {
        let served = body.clone();
        let server = Raw::start(move |request, before, wire| match before {
            0 => {
                head(wire, "200 X", "ETag: \"x\"\r\nContent-Length: 100000\r\n")?;
                wire.write_all(&served[..50_000])
            }
            1 => answer(
                wire,
                "206 X",
                "ETag: \"x\"\r\nContent-Range: bytes 50000-59999/100000\r\n",
                &served[50_000..50_000 + sent],
            ),
            _ => ranged(wire, request, "\"x\"", &served),
        });
        is(
            save(&client(network()), &server.url(), Size::AtMost(1 << 20)),
            &body,
        );
        let starts: Vec<_> = server.seen().iter().map(start).collect();
        assert_eq!(starts, expected);
    }
}

#[test]
fn a_file_that_changed_between_two_parts_begins_again() {
    let (old, new) = (content("old", 100_000), content("new", 100_000));
    let served = new.clone();
    // The server looks at Range and not at If-Range: only the tag of its 206 gives it away.
    let server = Raw::start(
        move |request, before, wire| match (before, start(request)) {
            (0, _) => {
                head(wire, "200 X", "ETag: \"old\"\r\nContent-Length: 100000\r\n")?;
                wire.write_all(&old[..50_000])
            }
            (_, Some(start)) => answer(
                wire,
                "206 X",
                &format!("ETag: \"new\"\r\nContent-Range: bytes {start}-99999/100000\r\n"),
                &served[start..],
            ),
            (_, None) => ranged(wire, request, "\"new\"", &served),
        },
    );
    is(
        save(&client(network()), &server.url(), Size::Exactly(100_000)),
        &new,
    );
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn a_whole_answer_to_a_range_is_taken_whole() {
    let body = content("whole", 100_000);
    let served = body.clone();
    let server = Raw::start(move |_, before, wire| match before {
        0 => {
            head(wire, "200 X", "ETag: \"x\"\r\nContent-Length: 100000\r\n")?;
            wire.write_all(&served[..50_000])
        }
        _ => answer(wire, "200 X", "ETag: \"x\"\r\n", &served),
    });
    is(
        save(&client(network()), &server.url(), Size::Exactly(100_000)),
        &body,
    );
    assert_eq!(start(&server.seen()[1]), Some(50_000));
}

#[test]
fn a_file_that_became_shorter_begins_again() {
    let (old, new) = (content("old", 100_000), content("new", 20_000));
    let served = new.clone();
    let server = Raw::start(
        move |request, before, wire| match (before, start(request)) {
            (0, _) => {
                head(wire, "200 X", "ETag: \"x\"\r\nContent-Length: 100000\r\n")?;
                wire.write_all(&old[..50_000])
            }
            (_, Some(_)) => answer(wire, "416 X", "Content-Range: bytes */20000\r\n", ""),
            (_, None) => answer(wire, "200 X", "ETag: \"y\"\r\n", &served),
        },
    );
    is(
        save(&client(network()), &server.url(), Size::AtMost(1 << 20)),
        &new,
    );
}

#[test]
fn a_part_that_nobody_asked_for_is_refused() {
    let server =
        Raw::start(|_, _, wire| answer(wire, "206 X", "Content-Range: bytes 0-3/4\r\n", "abcd"));
    let saved = save(&client(network()), &server.url(), Size::AtMost(10));
    refused(saved, &server.url(), &["206"]);
}

#[test]
fn what_surrounds_chunks_may_not_be_endless() {
    for piece in ["X: y\r\n", "xxxxxxxxxxxxxxxx"] {
        for beginning in ["4\r\nabcd\r\n0\r\n", "4;x="] {
            let server = Raw::start(move |_, _, wire| {
                head(wire, "200 OK", "Transfer-Encoding: chunked\r\n")?;
                wire.write_all(beginning.as_bytes())?;
                without_end(wire, piece.as_bytes())
            });
            refused(
                get(&client(network()), &server.url(), 100),
                &server.url(),
                &[],
            );
        }
    }
}
