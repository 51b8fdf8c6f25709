//! Async shim: how soon an async waiter wakes beside a blocking one, whether a ticker on an executor's only thread keeps its
//! pace among a thousand calls, and what 100,000 pending futures cost.
//!
//! Run with `cargo bench --features async --bench async_shim`. Wake-ups are measured in rounds that alternate within one run,
//! and compared by their medians.

// A benchmark that can't do its work may as well stop.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use diorama::__bench_events::Notifier;
use diorama::clock::{Clock, Moment};
use diorama::prelude::*;
use diorama::{AsyncDio, AsyncLens};
use tokio::runtime::{Builder, Runtime};

const ROUNDS: usize = 40;
const WAKE_UPS: usize = 100;
const MANY: usize = 100_000;
/// Until a thread that is about to sleep does so.
const TO_SLEEP: Duration = Duration::from_micros(100);

fn main() {
    // Under `cargo test --benches` there is nothing to measure.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    wake_ups();
    ticker();
    many();
}

/// The time that so many hundredths of all don't exceed.
fn percentile(times: &mut [Duration], hundredths: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * hundredths / 100).min(times.len() - 1)]
}

fn pass(clock: &Clock, time: Duration) {
    let end = clock.now().after(time);
    while clock.now() < end {
        std::hint::spin_loop();
    }
}

// ---- wake-ups ------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiter {
    Blocking,
    BlockOn,
    TokioMulti,
    TokioCurrent,
}

const WAITERS: [Waiter; 4] = [Waiter::Blocking, Waiter::BlockOn, Waiter::TokioMulti, Waiter::TokioCurrent];

/// What one side tells the other.
struct Line {
    clock: Clock,
    begun: Moment,
    /// When the number was raised, in nanoseconds since the beginning.
    raised: AtomicU64,
    woken: AtomicUsize,
}

impl Line {
    fn new() -> Arc<Self> {
        let clock = Clock::system();
        let begun = clock.now();
        Arc::new(Line { clock, begun, raised: AtomicU64::new(0), woken: AtomicUsize::new(0) })
    }

    fn raise(&self) {
        self.raised.store(self.clock.now().since(self.begun).as_nanos() as u64, Ordering::SeqCst);
    }

    fn wake(&self) -> Duration {
        let now = self.clock.now().since(self.begun);
        let took = now.saturating_sub(Duration::from_nanos(self.raised.load(Ordering::SeqCst)));
        self.woken.fetch_add(1, Ordering::SeqCst);
        took
    }
}

/// What a waiter waits for, and what raises it.
trait Ground {
    fn block(&self, step: u64);
    fn wait(&self, step: u64) -> impl Future<Output = ()> + Send;
    fn is_asleep(&self) -> bool;
    fn raise(&self);
}

/// The notifier alone.
struct Bare(Notifier);

impl Ground for Bare {
    fn block(&self, step: u64) {
        self.0.wait_until(step, None);
    }

    async fn wait(&self, step: u64) {
        self.0.reached(step).await;
    }

    fn is_asleep(&self) -> bool {
        self.0.waiters().0 > 0
    }

    fn raise(&self) {
        self.0.advance();
    }
}

/// A change of a row, until who waits for the view has it.
struct View {
    dio: AsyncDio,
    view: diorama::AsyncTableScenery,
    first: u64,
    price: AtomicU64,
}

impl Ground for View {
    fn block(&self, step: u64) {
        let view: &TableScenery = &self.view;
        view.wait_for_generation(Generation(self.first + step), None).unwrap();
    }

    async fn wait(&self, step: u64) {
        self.view.wait_for_generation(Generation(self.first + step)).await.unwrap();
    }

    fn is_asleep(&self) -> bool {
        true
    }

    fn raise(&self) {
        let dio: &Dio = &self.dio;
        dio.patched("a", record! { "price" => self.price.fetch_add(1, Ordering::Relaxed) }).unwrap();
    }
}

fn measure<G: Ground + Send + Sync + 'static>(waiter: Waiter, runtimes: [&Runtime; 2], ground: G) -> Vec<Duration> {
    let (line, ground) = (Line::new(), Arc::new(ground));
    let (its_line, its_ground) = (line.clone(), ground.clone());
    let task = async move {
        let mut took = Vec::with_capacity(WAKE_UPS);
        for step in 1..=WAKE_UPS as u64 {
            its_ground.wait(step).await;
            took.push(its_line.wake());
        }
        took
    };
    let raise = || {
        for step in 0..WAKE_UPS {
            while line.woken.load(Ordering::SeqCst) < step || !ground.is_asleep() {
                std::hint::spin_loop();
            }
            pass(&line.clock, TO_SLEEP);
            line.raise();
            ground.raise();
        }
    };
    std::thread::scope(|threads| {
        let waits = match waiter {
            Waiter::Blocking => {
                let (line, ground) = (&line, &ground);
                threads.spawn(move || {
                    (1..=WAKE_UPS as u64)
                        .map(|step| {
                            ground.block(step);
                            line.wake()
                        })
                        .collect()
                })
            }
            Waiter::BlockOn => threads.spawn(|| pollster::block_on(task)),
            Waiter::TokioMulti => {
                // On a worker, whom nobody's `block_on` wakes.
                let spawned = runtimes[0].spawn(task);
                threads.spawn(|| pollster::block_on(spawned).unwrap())
            }
            Waiter::TokioCurrent => threads.spawn(|| runtimes[1].block_on(task)),
        };
        raise();
        waits.join().unwrap()
    })
}

fn wake_ups() {
    let multi = Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let current = Builder::new_current_thread().build().unwrap();
    let lens = pollster::block_on(AsyncLens::build(Lens::new().in_memory())).unwrap();
    let source = MemoryVista::new("wake", "id").with_rows([("a", record! { "price" => 0 })]);
    let dio = pollster::block_on(lens.make_dio(source)).unwrap();
    let view = pollster::block_on(dio.table_scenery().open()).unwrap();
    let price = AtomicU64::new(1);
    for what in ["notifier", "view"] {
        let mut times: [Vec<Duration>; 4] = Default::default();
        for _ in 0..ROUNDS {
            for (waiter, times) in WAITERS.into_iter().zip(&mut times) {
                times.extend(if what == "notifier" {
                    measure(waiter, [&multi, &current], Bare(Notifier::new(0)))
                } else {
                    let (first, price) =
                        (view.generation().0, AtomicU64::new(price.fetch_add(1_000, Ordering::Relaxed)));
                    measure(waiter, [&multi, &current], View { dio: dio.clone(), view: view.clone(), first, price })
                });
            }
        }
        let blocking = percentile(&mut times[0], 50);
        for (waiter, times) in WAITERS.into_iter().zip(&mut times) {
            let (median, tail) = (percentile(times, 50), percentile(times, 90));
            let ratio = median.as_secs_f64() / blocking.as_secs_f64();
            println!(
                "wake-up, {what}, {waiter:?}: median {median:.1?}, p90 {tail:.1?}, {ratio:.2}x the blocking waiter"
            );
        }
    }
}

// ---- the ticker ----------------------------------------------------------------------------------------------------

/// The time between two ticks of a millisecond, over some seconds.
async fn ticks(clock: &Clock) -> Vec<Duration> {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    let mut last = clock.now();
    let mut gaps = Vec::new();
    for _ in 0..4_000 {
        tick.tick().await;
        let now = clock.now();
        gaps.push(now.since(last));
        last = now;
    }
    gaps
}

fn tell_ticks(what: &str, gaps: &mut [Duration]) {
    let [median, p99, most] = [50, 99, 100].map(|hundredths| percentile(gaps, hundredths));
    println!("1 ms ticker, {what}: median {median:.2?}, p99 {p99:.2?}, max {most:.2?}");
}

/// Makes calls of one kind, one after the other.
async fn call(kind: usize, number: usize, dio: AsyncDio, calls: Arc<AtomicUsize>) {
    let view = dio.table_scenery().sort("price", SortDir::Asc).limit(10).open().await.unwrap();
    let id = format!("r{:04}", number * 10 % 10_000);
    for round in 0.. {
        let ended = match kind {
            0 => dio.refresh().await,
            1 => dio.master().get_value(id.as_str()).await.map(drop),
            2 => match dio.write(WriteOp::patch(id.as_str(), record! { "price" => round })).await {
                Ok(ticket) => ticket.wait().await.map(drop),
                Err(error) => Err(error),
            },
            3 => view.wait_for_change(view.generation()).await.map(drop),
            _ => dio.cache().get(id.as_str()).await.map(drop),
        };
        calls.fetch_add(1, Ordering::Relaxed);
        match ended {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Closed => return,
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
}

fn ticker() {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let clock = Clock::system();
        tell_ticks("alone", &mut ticks(&clock).await);
        for (what, kinds) in
            [("calls and a source", 4), ("calls, some of them of memory in a tight loop, and a source", 5)]
        {
            let rows = (0..10_000).map(|row| (format!("r{row:04}"), record! { "price" => row }));
            let source = MemoryVista::new("ticker", "id").with_rows(rows).with_latency(Duration::from_millis(20));
            let lens = AsyncLens::build(Lens::new().in_memory()).await.unwrap();
            let dio = lens.make_dio(source).await.unwrap();
            let calls = Arc::new(AtomicUsize::new(0));
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..1_000 {
                tasks.spawn(call(number % kinds, number, dio.clone(), calls.clone()));
            }
            let mut gaps = ticks(&clock).await;
            tell_ticks(&format!("1,000 {what} of 20 ms in flight"), &mut gaps);
            println!("  ({} calls came to their end meanwhile)", calls.load(Ordering::Relaxed));
            lens.close(Duration::from_secs(30)).await.unwrap();
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
        }
    });
}

// ---- very many -----------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Memory that this process has in use, in bytes, and its threads (Linux).
fn in_use() -> (u64, usize) {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = pages.and_then(|pages| pages.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    (resident * 4_096, std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count))
}

fn many() {
    let lens = pollster::block_on(AsyncLens::build(Lens::new().in_memory())).unwrap();
    let source = MemoryVista::new("many", "id").with_rows([("a", record! { "price" => 0 })]);
    let dio = pollster::block_on(lens.make_dio(source)).unwrap();
    let view = pollster::block_on(dio.table_scenery().open()).unwrap();
    let clock = Clock::system();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let cx = &mut Context::from_waker(&waker);
    let pend = |cx: &mut Context<'_>| {
        let mut futures: Vec<Pin<Box<_>>> =
            (0..MANY).map(|_| Box::pin(view.wait_for_change(view.generation()))).collect();
        for future in &mut futures {
            assert!(future.as_mut().poll(cx).is_pending());
        }
        futures
    };
    let (before, begun) = (in_use(), clock.now());
    let mut futures = pend(cx);
    let (made, after) = (clock.now().since(begun), in_use());
    let each = after.0.saturating_sub(before.0) / MANY as u64;
    println!(
        "{MANY} pending futures: made and polled in {made:.1?}, {each} bytes each, {} threads more",
        after.1 - before.1
    );

    let begun = clock.now();
    let plain: &Dio = &dio;
    plain.patched("a", record! { "price" => 1 }).unwrap();
    while wakes.0.load(Ordering::SeqCst) < MANY {
        std::hint::spin_loop();
    }
    let woken = clock.now().since(begun);
    for future in &mut futures {
        assert!(future.as_mut().poll(cx).is_ready());
    }
    println!(
        "{MANY} pending futures: one change wakes all in {woken:.1?}, polled in {:.1?}",
        clock.now().since(begun) - woken
    );

    let futures = pend(cx);
    let begun = clock.now();
    drop(black_box(futures));
    println!("{MANY} pending futures: dropped in {:.1?}", clock.now().since(begun));
}
