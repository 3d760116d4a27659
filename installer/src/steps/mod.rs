//! The steps: one state each.
