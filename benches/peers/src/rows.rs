//! Rows: the data that every contestant gets, and the changes that are made to it.

/// A row as plain data; each contestant makes its own kind of row of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it stands in the source.
    pub index: usize,
    pub id: String,
    pub name: String,
    /// 0 to 99; the filtered views show the rows of band 99.
    pub band: i64,
    pub amount: i64,
    pub note: String,
}

/// The band that the filtered views show.
pub const SHOWN_BAND: i64 = 99;
/// Amounts of unchanged rows are below this.
const AMOUNTS: u64 = 1_000_000;
const WORDS: [&str; 16] = [
    "anvil", "bell", "candle", "drum", "engine", "feather", "gate", "hammer", "iron", "jar", "kettle", "lamp",
    "mirror", "needle", "oar", "plough",
];
/// What is searched for: a sixteenth of the rows has it.
pub const SEARCHED: &str = WORDS[4];

fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^= mixed >> 29;
    mixed = mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 32)
}

pub fn make(count: usize) -> Vec<Row> {
    (0..count)
        .map(|index| {
            let mixed = mix(index as u64);
            Row {
                index,
                id: format!("r{index:07}"),
                name: format!("{} {:06} {index}", WORDS[(mixed % 16) as usize], (mixed >> 8) % 999_983),
                band: (index % 100) as i64,
                amount: ((mixed >> 8) % AMOUNTS) as i64,
                note: format!("row number {index} of a table that is compared"),
            }
        })
        .collect()
}

/// What the views must show: first the largest amount of all rows, or of those in the shown band; and the sum of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tops {
    pub all: i64,
    pub filtered: i64,
    pub sum: i64,
}

impl Tops {
    fn of(rows: &[Row]) -> Self {
        let largest = |shown: fn(&&Row) -> bool| rows.iter().filter(shown).map(|row| row.amount).max().unwrap_or(0);
        Tops {
            all: largest(|_| true),
            filtered: largest(|row| row.band == SHOWN_BAND),
            sum: rows.iter().map(|row| row.amount).sum(),
        }
    }

    /// Of the view with this number: 0 shows all rows, every other one only the shown band.
    pub fn of_view(self, view: usize) -> i64 {
        if view == 0 { self.all } else { self.filtered }
    }
}

/// An endless sequence of changes: a row somewhere in the middle jumps to the top of every view, then back where it was.
pub struct Feed<'a> {
    rows: &'a [Row],
    at_rest: Tops,
    now: Tops,
    turn: usize,
}

impl<'a> Feed<'a> {
    pub fn new(rows: &'a [Row]) -> Self {
        let at_rest = Tops::of(rows);
        Feed { rows, at_rest, now: at_rest, turn: 0 }
    }

    /// The next changed row, and what the views then show.
    pub fn next_change(&mut self) -> (Row, Tops) {
        let turn = self.turn;
        self.turn += 1;
        let mut row = self.rows[(turn / 2 * 7_919 + 13) % self.rows.len()].clone();
        self.now = self.at_rest;
        if turn.is_multiple_of(2) {
            let amount = AMOUNTS as i64 + turn as i64;
            self.now = Tops { all: amount, filtered: amount, sum: self.at_rest.sum - row.amount + amount };
            row.band = SHOWN_BAND;
            row.amount = amount;
        }
        (row, self.now)
    }

    /// `count` different rows lifted, and what the views show when all are there; no row may be lifted already.
    pub fn burst(&self, count: usize) -> (Vec<Row>, Tops) {
        let first = AMOUNTS as i64 * 2;
        let count = count.min(self.rows.len());
        let step = self.rows.len() / count;
        let mut tops = self.at_rest;
        let lifted = (0..count).map(|number| {
            let old = &self.rows[number * step];
            let amount = first + number as i64;
            tops = Tops { all: amount, filtered: amount, sum: tops.sum - old.amount + amount };
            Row { band: SHOWN_BAND, amount, ..old.clone() }
        });
        (lifted.collect(), tops)
    }

    /// What undoes a burst.
    pub fn settled(&self, burst: &[Row]) -> (Vec<Row>, Tops) {
        (burst.iter().map(|row| self.rows[row.index].clone()).collect(), self.at_rest)
    }

    /// Whether the last change lifted a row that the next one puts back.
    pub fn is_lifted(&self) -> bool {
        self.turn % 2 == 1
    }

    /// What the views show after the last change.
    pub fn tops(&self) -> Tops {
        self.now
    }
}
