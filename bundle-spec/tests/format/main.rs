//! Format 1 from outside: golden and old pots, damaged and hostile ones, and the stock tools that must agree with us.
#![allow(
    clippy::disallowed_methods,
    reason = "tests write pots and run stock tools in folders of their own"
)]

mod blobs;
mod damage;
mod golden;
mod hostile;
mod manifest;
mod pots;
mod references;
mod stock_tools;
mod trust;
mod verbatim;
