//! Three stages in a row: plan, work, settle.
//!
//! ```text
//!          plan                  work               settle
//!   one thread at a time ─►  many threads  ─► one thread at a time
//!         in order           in any order         in order
//! ```
//!
//! Every thread runs the same loop: it takes an idle slot, plans a task into it, works on it, and hands it in. Who hands
//! in the task that is next in order settles it, and those that wait behind it; the others go on working meanwhile. No
//! thread waits for one that might never be started, so one thread does it all where there is but one. The number of
//! slots bounds the memory, and how far work can run ahead.
//!
//! The caller's thread begins alone; [`Balance`] says when others help. What is merely copied is not handed from one
//! processor's cache to another's.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diskette_core::{Error, Result};
use rayon::{Scope, ThreadPoolBuilder};

use crate::Control;
use crate::balance::Balance;

/// What a pipeline does. An error ends it; of the errors of `plan` and `work`, the first in order is told.
pub(crate) trait Stages: Sync {
    /// What planning changes.
    type Plan: Send;
    /// Where a task is kept, with its buffers. Used again and again.
    type Slot: Default + Send;
    /// What settling changes.
    type Settled: Send;

    /// Plans the next task into the slot; false where there is none.
    fn plan(&self, plan: &mut Self::Plan, slot: &mut Self::Slot) -> Result<bool>;

    /// Does what can be done in any order.
    fn work(&self, slot: &mut Self::Slot) -> Result<()>;

    /// Does what must be done in order; false where no more is wanted.
    fn settle(&self, settled: &mut Self::Settled, slot: &mut Self::Slot) -> Result<bool>;
}

/// Runs all tasks through the stages, and gives back what settled them.
pub(crate) fn run<S: Stages>(
    stages: &S,
    plan: S::Plan,
    settled: S::Settled,
    control: &Control<'_>,
) -> Result<S::Settled> {
    let threads = control
        .threads
        .unwrap_or_else(rayon::current_num_threads)
        .max(1);
    let line = Line {
        stages,
        control,
        planner: Mutex::new(Planner { plan, planned: 0 }),
        state: Mutex::new(State::new(threads, settled)),
        changed: Condvar::new(),
    };
    match control.threads {
        _ if threads == 1 => line.take_part(None),
        None => rayon::in_place_scope(|scope| line.take_part(Some(scope))),
        Some(_) => ThreadPoolBuilder::new()
            .num_threads(threads - 1)
            .build()
            .map_err(no_thread)?
            .in_place_scope(|scope| line.take_part(Some(scope))),
    }
    line.outcome()
}

/// One thread needs one slot. Several need some more than they work on, so that those handed in can wait their turn.
fn slot_count(threads: usize) -> usize {
    match threads {
        1 => 1,
        _ => threads.saturating_mul(2).saturating_add(2),
    }
}

pub(crate) fn no_thread(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Io {
        storage: "threads".to_owned(),
        op: "start",
        offset: 0,
        len: 0,
        source: io::Error::other(error),
    }
}

/// What the threads of a pipeline share.
struct Line<'a, S: Stages> {
    stages: &'a S,
    control: &'a Control<'a>,
    planner: Mutex<Planner<S>>,
    state: Mutex<State<S>>,
    /// A slot became idle, or the end came in sight.
    changed: Condvar,
}

struct Planner<S: Stages> {
    plan: S::Plan,
    /// How many tasks there have been: the next one's number.
    planned: u64,
}

struct State<S: Stages> {
    idle: Vec<S::Slot>,
    /// Slots that may yet be made.
    spare: usize,
    /// Tasks handed in, by their number.
    handed_in: BTreeMap<u64, HandedIn<S>>,
    /// The number of the task to be settled next.
    next: u64,
    /// Away while a thread settles.
    settled: Option<S::Settled>,
    balance: Balance,
    /// How many threads there may be, and how many there are.
    most_threads: usize,
    threads: usize,
    /// How many threads wait for a slot.
    waiting: usize,
    /// Whether no more tasks are to be planned.
    closed: bool,
    /// Whether no more tasks are to be settled.
    over: bool,
    /// The error that ended it all.
    failed: Option<Error>,
}

struct HandedIn<S: Stages> {
    slot: S::Slot,
    result: Result<()>,
    /// How long the work on it took.
    worked: Duration,
}

/// Who runs the loop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The caller's thread, which stays to the end.
    Caller,
    /// A thread that leaves when it is of no more use.
    Helper,
}

impl<S: Stages> State<S> {
    fn new(threads: usize, settled: S::Settled) -> Self {
        Self {
            idle: Vec::new(),
            spare: slot_count(threads),
            handed_in: BTreeMap::new(),
            next: 0,
            settled: Some(settled),
            balance: Balance::default(),
            most_threads: threads,
            threads: 1,
            waiting: 0,
            closed: false,
            over: false,
            failed: None,
        }
    }

    fn take_slot(&mut self) -> Option<S::Slot> {
        self.idle.pop().or_else(|| {
            self.spare = self.spare.checked_sub(1)?;
            Some(S::Slot::default())
        })
    }

    /// The task that is next in order, if it is there and nobody settles.
    fn take_next(&mut self) -> Option<(HandedIn<S>, S::Settled)> {
        if self.over || self.settled.is_none() {
            return None;
        }
        let task = self.handed_in.remove(&self.next)?;
        self.next += 1;
        Some((task, self.settled.take()?))
    }

    fn useful_threads(&self) -> usize {
        self.balance.useful_threads().min(self.most_threads)
    }

    /// Counts one more thread in, if it would be of use.
    fn welcomes_helper(&mut self) -> bool {
        let welcome = !self.closed && self.threads < self.useful_threads();
        self.threads += usize::from(welcome);
        welcome
    }

    fn end(&mut self) {
        self.closed = true;
        self.over = true;
    }

    fn fail(&mut self, error: Error) {
        self.end();
        self.failed.get_or_insert(error);
    }
}

impl<S: Stages> Line<'_, S> {
    /// What the caller's thread does. Helpers are started in `scope`.
    fn take_part<'scope>(&'scope self, scope: Option<&Scope<'scope>>) {
        self.take_part_as(Role::Caller, scope);
    }

    fn take_part_as<'scope>(&'scope self, role: Role, scope: Option<&Scope<'scope>>) {
        while let Some(mut slot) = self.wait_for_slot(role) {
            let Some((number, planned)) = self.plan_into(&mut slot) else {
                self.close();
                return;
            };
            let start = Instant::now();
            let result = planned.and_then(|()| guarded(|| self.stages.work(&mut slot)));
            let worked = start.elapsed();
            self.hand_in(
                number,
                HandedIn {
                    slot,
                    result,
                    worked,
                },
            );
            if let Some(scope) = scope
                && lock(&self.state).welcomes_helper()
            {
                scope.spawn(|scope| self.take_part_as(Role::Helper, Some(scope)));
            }
        }
    }

    /// `None` where nothing is left to be planned, or a helper is not needed.
    fn wait_for_slot(&self, role: Role) -> Option<S::Slot> {
        let mut state = lock(&self.state);
        loop {
            if let Err(cancelled) = self.control.check_cancelled() {
                state.fail(cancelled);
                self.changed.notify_all();
            }
            if state.closed {
                return None;
            }
            if role == Role::Helper && state.threads > state.useful_threads() {
                state.threads -= 1;
                return None;
            }
            if let Some(slot) = state.take_slot() {
                return Some(slot);
            }
            state.waiting += 1;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// The task's number, and whether it could be planned.
    fn plan_into(&self, slot: &mut S::Slot) -> Option<(u64, Result<()>)> {
        let mut planner = lock(&self.planner);
        let planned = guarded(|| self.stages.plan(&mut planner.plan, slot));
        if matches!(planned, Ok(false)) {
            return None;
        }
        let number = planner.planned;
        planner.planned += 1;
        Some((number, planned.map(|_| ())))
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Puts a task where it belongs, and settles what is next in order unless another thread is at it.
    fn hand_in(&self, number: u64, task: HandedIn<S>) {
        let mut state = lock(&self.state);
        state.closed |= task.result.is_err();
        state.handed_in.insert(number, task);
        while let Some((mut task, mut settled)) = state.take_next() {
            drop(state);
            let start = Instant::now();
            let result = task
                .result
                .and_then(|()| guarded(|| self.stages.settle(&mut settled, &mut task.slot)));
            let took = start.elapsed();
            state = lock(&self.state);
            state.balance.note(task.worked, took);
            state.settled = Some(settled);
            state.idle.push(task.slot);
            match result {
                Ok(true) => {}
                Ok(false) => state.end(),
                Err(error) => state.fail(error),
            }
            if state.waiting > 0 {
                self.changed.notify_one();
            }
        }
        if state.closed {
            self.changed.notify_all();
        }
    }

    fn outcome(self) -> Result<S::Settled> {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match (state.failed, state.settled) {
            (Some(error), _) => Err(error),
            (None, Some(settled)) => Ok(settled),
            (None, None) => Err(panicked("a task was never settled")),
        }
    }
}

/// Runs `call`; a panic in it becomes an error.
pub(crate) fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    // What `call` was changing is thrown away: the pipeline ends with this error.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| Err(panicked(said_by(&*payload))))
}

fn said_by(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

fn panicked(message: &str) -> Error {
    Error::Panicked {
        message: message.to_owned(),
    }
}

/// A panic elsewhere is told by the call that met it; what the lock guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
