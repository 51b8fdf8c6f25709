//! The source contract: every source of this crate keeps it, and drivers that lie about anything are caught by name.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "contract/honest.rs"]
mod honest;
#[path = "contract/liars.rs"]
mod liars;
#[path = "contract/page_liars.rs"]
mod page_liars;
#[cfg(feature = "sqlite")]
#[path = "contract/sqlite.rs"]
mod sqlite;

#[test]
fn the_driver_of_the_cookbook_has_less_than_a_hundred_lines() {
    let page = include_str!("../docs/cookbook/writing-a-driver.md");
    let block = page.split("```rust\n").nth(1).unwrap();
    let driver = block.split("/// The body of a `#[test]`").next().unwrap();
    assert!(driver.contains("impl TableShell for") && driver.lines().count() < 100, "{}", driver.lines().count());
}
