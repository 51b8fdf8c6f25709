//! Pool: a few named threads that work off a queue of jobs, bounded by a capacity or by the futures that own its jobs.
//!
//! Owner: a Lens; its build pool makes view indexes, its load pool reads the source, and two make the calls of async programs.
//! Invariants: a job runs with the waiting rank of the Dio it is for; a panicking job ends alone; a job that is withdrawn
//! leaves nothing behind.
//! Close/panic: closing drops the jobs that have not begun.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::sync::{self, Deadline, QueueInfo, Rank, ThreadInfo, Worker, as_rank, catch_panic};
use crate::{Error, ErrorKind, Result};

pub(crate) type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    /// In the order in which they came.
    jobs: BTreeMap<u64, (Rank, Job)>,
    next_job: u64,
    idle: usize,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

pub(crate) struct Pool {
    name: String,
    threads: usize,
    capacity: usize,
    shared: Arc<Shared>,
    workers: Mutex<Vec<Worker>>,
}

impl Pool {
    /// A pool of at most `threads` threads called `<name>-N`, started when there is work.
    pub(crate) fn new(name: String, threads: usize, capacity: usize) -> Arc<Self> {
        Arc::new(Pool { name, threads, capacity, shared: Arc::default(), workers: Mutex::default() })
    }

    /// Queues a job and returns at once, with its number for [`withdraw`](Self::withdraw).
    ///
    /// # Errors
    /// `Full`; `Closed`; `Unavailable` when the system gives no thread.
    pub(crate) fn submit(&self, rank: Rank, job: Job) -> Result<u64> {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            return Err(Error::new(ErrorKind::Closed, "the Lens is closed"));
        }
        if queue.jobs.len() >= self.capacity {
            return Err(Error::new(ErrorKind::Full, "too many jobs are waiting").with("thread", self.name.as_str()));
        }
        let number = queue.next_job;
        queue.next_job += 1;
        queue.jobs.insert(number, (rank, job));
        let needs_thread = queue.idle < queue.jobs.len();
        drop(queue);
        self.shared.wake.notify_one();
        if needs_thread {
            self.start_thread(rank)?;
        }
        Ok(number)
    }

    /// Takes back a job that has not begun, if that is so.
    #[cfg(feature = "async")]
    pub(crate) fn withdraw(&self, number: u64) {
        let job = self.shared.queue.lock().jobs.remove(&number);
        drop(job);
    }

    fn start_thread(&self, rank: Rank) -> Result<()> {
        let mut workers = self.workers.lock();
        if workers.len() >= self.threads {
            return Ok(());
        }
        let shared = self.shared.clone();
        let name = format!("{}-{}", self.name, workers.len() + 1);
        match sync::spawn(name, rank, move || shared.run()) {
            Ok(worker) => workers.push(worker),
            // Another thread of the pool will get to the job.
            Err(_) if !workers.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Its threads.
    pub(crate) fn thread_infos(&self) -> Vec<ThreadInfo> {
        self.workers.lock().iter().map(Worker::info).collect()
    }

    /// Whether a job waits.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.shared.queue.lock().jobs.is_empty()
    }

    /// The jobs that wait.
    pub(crate) fn queue(&self) -> QueueInfo {
        QueueInfo {
            name: self.name.clone(),
            length: self.shared.queue.lock().jobs.len(),
            // Without a bound of its own it is bounded by who waits for its jobs.
            capacity: (self.capacity < usize::MAX).then_some(self.capacity),
        }
    }

    /// Refuses new jobs, drops those that have not begun.
    pub(crate) fn hang_up(&self) {
        let jobs = {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        self.shared.wake.notify_all();
        // A job may hold what a user gave.
        let _ = catch_panic("a job that was given up", || drop(jobs));
    }

    /// Hangs up and waits for the threads; gives back the names of those still at work at the deadline.
    pub(crate) fn close(&self, deadline: Deadline) -> Vec<String> {
        self.hang_up();
        let workers = std::mem::take(&mut *self.workers.lock());
        workers.iter().filter(|worker| !worker.join_until(deadline)).map(|worker| worker.name().to_owned()).collect()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.hang_up();
    }
}

impl Shared {
    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some((_, (rank, job))) = queue.jobs.pop_first() {
                drop(queue);
                if let Err(error) = catch_panic("a job", || as_rank(rank, job)) {
                    tracing::error!(%error, "a job ended in a panic");
                }
                queue = self.queue.lock();
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                self.wake.wait(&mut queue);
                queue.idle -= 1;
            }
        }
    }
}
