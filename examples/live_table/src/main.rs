//! Live table: a web server whose pages show a table of a SQLite database, live, and edit it, online or not.
//!
//! ```text
//! live-table                  keeps its files in target/live-table of this package, and listens on port 3000
//! live-table --in <dir>       keeps its files there
//! live-table --port <n>       listens there; 0 for any free port
//! live-table --fresh          starts over
//! ```

mod database;
mod live;

use std::convert::Infallible;
use std::error::Error;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use diorama::{AsyncDio, AsyncLens, DeliveryPolicy, Lens, LensBuilder, Record, SqliteVista, WriteOp};

use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::database::Database;
use crate::live::{NUMBERS, Page, TEXTS, reason};

const PAGE: &str = include_str!("page.html");

/// What every request works with.
#[derive(Clone)]
struct App {
    airports: AsyncDio,
    database: Arc<Database>,
    /// Whether this program has locked the database; pages follow it.
    locked: Arc<watch::Sender<bool>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings = Settings::from_arguments(std::env::args().skip(1))?;
    // Nothing else runs yet, so this and the opening of the source may block.
    let database = Arc::new(open_database(&settings)?);
    let lens = AsyncLens::build(policy(&settings.directory)).await?;
    let source = SqliteVista::builder(database.path())
        .table("airports")
        // A locked database is soon known to be one; the deliveries, not the calls, are patient.
        .busy_timeout(Duration::from_millis(100))
        .open()?;
    let airports = lens.make_dio(source).await?;

    let app = App { airports, database: database.clone(), locked: Arc::new(watch::Sender::new(database.was_locked())) };
    let routes = Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/live", get(live))
        .route("/edit", post(edit))
        .route("/refresh", post(refresh))
        .route("/lock", post(lock))
        .with_state(app);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port))
        .await
        .map_err(|error| format!("can't listen on port {}: {error}; --port takes another one", settings.port))?;
    println!("Live table: http://{}", listener.local_addr()?);

    // Closing ends the pages' streams, for which the server waits.
    let closing = async move {
        if tokio::signal::ctrl_c().await.is_ok()
            && let Err(error) = lens.close(Duration::from_secs(5)).await
        {
            eprintln!("could not close: {error}");
        }
    };
    axum::serve(listener, routes).with_graceful_shutdown(closing).await?;
    Ok(())
}

/// Where rows are kept, how often they are read again, and how patiently edits are delivered.
fn policy(directory: &Path) -> LensBuilder {
    let delivery = DeliveryPolicy::default()
        .first_delay(Duration::from_millis(200))
        .probe_every(Duration::from_millis(200))
        .max_delay(Duration::from_secs(1));
    Lens::new().cache_at(directory.join("cache")).refresh_every(Duration::from_secs(5)).delivery(delivery)
}

/// Locks the database, too, if it was locked when the program ended: before any edit that waits is delivered.
fn open_database(settings: &Settings) -> Result<Database, Box<dyn Error>> {
    if settings.fresh && settings.directory.exists() {
        fs::remove_dir_all(&settings.directory)?;
    }
    fs::create_dir_all(&settings.directory)?;
    let database = Database::open(&settings.directory)?;
    if database.was_locked() {
        database.set_locked(true)?;
    }
    Ok(database)
}

/// A page's view of the table, as a stream of events that ends with the Dio.
async fn live(
    State(app): State<App>,
    Query(query): Query<live::Query>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let page = Page::open(&app.airports, query).await.map_err(Refusal::of)?;
    let (sender, events) = mpsc::channel(4);
    tokio::spawn(page.follow(app.locked.subscribe(), sender));
    Ok(Sse::new(ReceiverStream::new(events).map(Ok)).keep_alive(KeepAlive::default()))
}

#[derive(Deserialize)]
struct Edit {
    id: String,
    column: String,
    text: String,
}

/// Takes an edit. Every page shows it before this answers, and when it does, no crash undoes it.
async fn edit(State(app): State<App>, Json(edit): Json<Edit>) -> Result<StatusCode, Refusal> {
    let mut fields = Record::new();
    match edit.text.trim() {
        _ if !TEXTS.contains(&edit.column.as_str()) && !NUMBERS.contains(&edit.column.as_str()) => {
            return Err(Refusal(format!("`{}` is no column that can be edited", edit.column)));
        }
        text if NUMBERS.contains(&edit.column.as_str()) => match text.parse::<f64>() {
            Ok(number) => fields.insert(edit.column, number),
            Err(_) => return Err(Refusal(format!("a {} is a number", edit.column))),
        },
        text => fields.insert(edit.column, text),
    };
    app.airports.write_durable(WriteOp::patch(edit.id, fields)).await.map_err(Refusal::of)?;
    Ok(StatusCode::ACCEPTED)
}

/// Reads the database again now.
async fn refresh(State(app): State<App>) -> Result<StatusCode, Refusal> {
    app.airports.refresh().await.map_err(Refusal::of)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Lock {
    locked: bool,
}

/// Locks the database, as another program would, so that no edit can be delivered; or ends that.
async fn lock(State(app): State<App>, Json(Lock { locked }): Json<Lock>) -> Result<StatusCode, Refusal> {
    let database = app.database.clone();
    let done = spawn_blocking(move || database.set_locked(locked).map_err(|error| error.to_string()));
    done.await.map_err(|error| Refusal(error.to_string()))?.map_err(Refusal)?;
    app.locked.send_replace(locked);
    Ok(StatusCode::NO_CONTENT)
}

/// Why a request was not done, in words for the user.
struct Refusal(String);

impl Refusal {
    fn of(error: diorama::Error) -> Self {
        Refusal(reason(&error))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "reason": self.0 }))).into_response()
    }
}

struct Settings {
    directory: PathBuf,
    port: u16,
    fresh: bool,
}

impl Settings {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/live-table");
        let mut settings = Settings { directory, port: 3000, fresh: false };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--in" => settings.directory = arguments.next().ok_or("--in needs a directory")?.into(),
                "--port" => settings.port = arguments.next().ok_or("--port needs a number")?.parse()?,
                "--fresh" => settings.fresh = true,
                other => return Err(format!("unknown argument {other}; there are --in, --port and --fresh").into()),
            }
        }
        Ok(settings)
    }
}
