//! `kpot schema`

use super::print_json;
use crate::recipe::Recipe;

pub(super) fn run() -> anyhow::Result<()> {
    print_json(&Recipe::schema())
}
