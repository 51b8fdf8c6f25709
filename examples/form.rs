//! Form: a row is edited while somebody else changes it; the source refuses the first save, and takes the corrected one.
//!
//! What a form shows is printed after each step: what is in each field, and what there is to say of it.
//!
//! ```text
//! cargo run --release --example form
//! ```

use std::error::Error;
use std::time::Duration;

use diorama::WriteRequest;
use diorama::prelude::*;
use diorama::vista::{Column, ColumnType, Schema};

const SOON: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn Error>> {
    let shop = shop();
    // The service's own rule. A driver says what is wrong with each field; the form shows it there.
    let service = shop.clone();
    let check = move |_: &Dio, write: &WriteRequest<'_>| -> diorama::Result<Written> {
        let price = write.record().and_then(|record| record.int("price"));
        if price.is_some_and(|price| price < 20) {
            let refused = diorama::Error::new(ErrorKind::Rejected, "the shop refused the product");
            return Err(refused.with_field("price", "must be at least 20"));
        }
        Vista::new(service.clone()).write(write.cx(), write.op())
    };
    let lens = Lens::new().in_memory().on_write(check).build()?;
    let products = lens.make_dio(shop.clone())?;

    step("Open a form over the product p1");
    let form = products.draft("p1")?;
    paint(&form);

    step("The user types: another name, another price");
    form.set("name", "Anvil, large")?;
    form.set("price", 12)?;
    paint(&form);

    step("He mistypes: a text in a number's field is refused at once, and nothing changes");
    if let Err(error) = form.set("stock", "many") {
        println!("   {error}");
    }

    step("Somebody else changes the price and the stock");
    shop.outside().patch("p1", record! { "price" => 35, "stock" => 4 })?;
    products.refresh()?;
    paint(&form);

    step("Saving is refused while the two disagree; nothing is written");
    if let Err(error) = form.save() {
        println!("   {error}");
    }

    step("The user keeps his price, and saves");
    form.resolve("price", Keep::Mine);
    send(&form)?;
    paint(&form);

    step("He corrects it, and saves again");
    form.set("price", 32)?;
    send(&form)?;
    paint(&form);

    step("A new product, by the same form");
    let form = products.draft_new()?;
    form.set("name", "Bell")?;
    if let Err(error) = form.save() {
        println!("   {error}");
    }
    form.set("price", 25)?;
    send(&form)?;
    paint(&form);

    println!("\nWhat the shop has now:");
    for (id, row) in shop.rows() {
        println!("   {id} {row:?}");
    }
    if lens.close(SOON)?.is_closed() { Ok(()) } else { Err("threads are still running".into()) }
}

/// A service with one product.
fn shop() -> MemoryVista {
    let schema = Schema::new("id")
        .with(Column::new("id", ColumnType::Text))
        .with(Column::new("name", ColumnType::Text).title().mandatory())
        .with(Column::new("price", ColumnType::Int).mandatory())
        .with(Column::new("stock", ColumnType::Int));
    let anvil = record! { "id" => "p1", "name" => "Anvil", "price" => 30, "stock" => 5 };
    MemoryVista::new("products", "id").with_schema(schema).with_rows([("p1", anvil)])
}

fn step(what: &str) {
    println!("\n{what}");
}

/// Saves, and waits for what becomes of it. A form on a screen would not wait: it paints `status` in each frame.
fn send(form: &Draft) -> diorama::Result<()> {
    match form.save()? {
        None => println!("   There is nothing to save."),
        Some(ticket) => match ticket.wait(SOON) {
            Ok(_) => println!("   Saved."),
            Err(error) => println!("   {error}"),
        },
    }
    Ok(())
}

/// Paints a form: each field with its value, and what is to be said of it.
fn paint(form: &Draft) {
    println!("   [{:?}] {}", form.status(), form.id().unwrap_or_else(|| "a new row".to_owned()));
    for name in ["name", "price", "stock"] {
        let field = form.field(name);
        let mut remark = match field.state {
            FieldState::Conflict => format!("was {}, is {} now", text(field.base), text(field.live)),
            FieldState::Changed => format!("was {}", text(field.base)),
            _ => String::new(),
        };
        if let Some(error) = field.error {
            remark = format!("{remark}; {error}");
        }
        println!("   {}", format!("  {name:<6} {:<14} {remark}", text(field.value)).trim_end());
    }
}

fn text(value: Option<Value>) -> String {
    match value {
        Some(Value::Text(text)) => text,
        Some(Value::Integer(number)) => i128::from(number).to_string(),
        Some(Value::Null) | None => "empty".to_owned(),
        Some(other) => format!("{other:?}"),
    }
}
