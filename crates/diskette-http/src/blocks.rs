//! The blocks of a file far away that have come, as many as there is room for. A block is fetched by one thread, for
//! which others wait.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A file far away, of which any part can be fetched.
pub trait Fetch {
    /// The file's size in bytes.
    fn size(&self) -> u64;

    /// The bytes from `start` up to `end`, a few blocks at most.
    fn fetch(&self, start: u64, end: u64) -> io::Result<Vec<u8>>;
}

/// Bytes of a block.
pub const BLOCK: u64 = 1 << 20;
/// Blocks that are kept.
const MOST_KEPT: usize = 32;
/// Blocks that are asked for at once where reading goes on from block to block.
const MOST_AHEAD: u64 = 4;

/// What has come of a file, and is kept for those who read it again.
#[derive(Debug)]
pub struct Blocks {
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Debug)]
struct State {
    /// By their numbers, the one used last in front.
    kept: VecDeque<(u64, Arc<[u8]>)>,
    /// Those that some thread fetches.
    under_way: BTreeSet<u64>,
    /// The block behind the one that was fetched last.
    next: u64,
    /// How many blocks were fetched at once.
    ahead: u64,
}

impl Blocks {
    /// Nothing but the first block.
    #[must_use]
    pub fn new(first: Vec<u8>) -> Self {
        Self {
            state: Mutex::new(State {
                kept: VecDeque::from([(0, first.into())]),
                under_way: BTreeSet::new(),
                next: 1,
                ahead: 1,
            }),
            came: Condvar::new(),
        }
    }

    /// Fills `buf` from `offset` on. What has not come is fetched `from` the file; past its end nothing is.
    pub fn read(&self, from: &dyn Fetch, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > from.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let block = self.block(from, at / BLOCK)?;
            let within = usize::try_from(at % BLOCK).unwrap_or(usize::MAX);
            let there = block.get(within..).filter(|there| !there.is_empty());
            let there = there.ok_or(io::ErrorKind::UnexpectedEof)?;
            let len = there.len().min(rest.len());
            let (part, behind) = rest.split_at_mut(len);
            part.copy_from_slice(&there[..len]);
            rest = behind;
            at += len as u64;
        }
        Ok(())
    }

    fn block(&self, from: &dyn Fetch, number: u64) -> io::Result<Arc<[u8]>> {
        let mut state = self.lock();
        loop {
            if let Some(found) = state.find(number) {
                return Ok(found);
            }
            if !state.under_way.contains(&number) {
                break;
            }
            state = self
                .came
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let count = state.begin(number, from.size().div_ceil(BLOCK));
        drop(state);
        let start = number * BLOCK;
        let end = from.size().min((number + count) * BLOCK);
        let bytes = from.fetch(start, end);
        let mut state = self.lock();
        for fetched in number..number + count {
            state.under_way.remove(&fetched);
        }
        self.came.notify_all();
        let bytes = bytes?;
        let size = usize::try_from(BLOCK).unwrap_or(usize::MAX);
        for (fetched, block) in (number..).zip(bytes.chunks(size)) {
            state.keep(fetched, block.into());
        }
        state
            .find(number)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// A panic elsewhere ends the reading; what is kept is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, number: u64) -> Option<Arc<[u8]>> {
        let at = self.kept.iter().position(|(kept, _)| *kept == number)?;
        let found = self.kept.remove(at)?;
        let block = Arc::clone(&found.1);
        self.kept.push_front(found);
        Some(block)
    }

    /// Notes that this block is fetched, and with it those behind it that will be asked for if reading goes on; gives how
    /// many in all.
    fn begin(&mut self, number: u64, end: u64) -> u64 {
        self.ahead = match number == self.next {
            true => (self.ahead * 2).min(MOST_AHEAD),
            false => 1,
        };
        let most = self.ahead.min(end.saturating_sub(number)).max(1);
        let is_absent = |number: &u64| {
            !self.under_way.contains(number) && self.kept.iter().all(|(kept, _)| kept != number)
        };
        let more = (number + 1..number + most).take_while(is_absent).count() as u64;
        let count = 1 + more;
        self.under_way.extend(number..number + count);
        self.next = number + count;
        count
    }

    fn keep(&mut self, number: u64, block: Arc<[u8]>) {
        self.kept.push_front((number, block));
        self.kept.truncate(MOST_KEPT);
    }
}
