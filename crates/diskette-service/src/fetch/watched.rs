//! A body that is given up when it stalls: also where a few bytes come now and then.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::client::failed;
use crate::problem::Result;

/// A body of which is seen whether it goes on.
pub(super) struct Watched<'a, R> {
    from: R,
    url: &'a str,
    /// All bytes that were ever received.
    received: &'a AtomicU64,
    patience: Duration,
    since: Instant,
    came: u64,
}

/// Bytes that come within the patience, at least.
const LEAST: u64 = 16 << 10;

impl<'a, R: Read> Watched<'a, R> {
    pub(super) fn new(from: R, url: &'a str, received: &'a AtomicU64, patience: Duration) -> Self {
        Self {
            from,
            url,
            received,
            patience,
            since: Instant::now(),
            came: 0,
        }
    }

    /// The next bytes; none, where it ends.
    pub(super) fn next(&mut self, piece: &mut [u8]) -> Result<usize> {
        let came = self.from.read(piece);
        let came = came.map_err(|error| failed(self.url, error))?;
        self.received.fetch_add(came as u64, Ordering::Relaxed);
        self.came += came as u64;
        if self.since.elapsed() >= self.patience {
            if came > 0 && self.came < LEAST {
                let seconds = self.patience.as_secs();
                let detail = format!("it stalls: {} bytes in {seconds} seconds", self.came);
                return Err(failed(self.url, detail));
            }
            self.came = 0;
            self.since = Instant::now();
        }
        Ok(came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte now and then.
    struct Trickle;

    impl Read for Trickle {
        fn read(&mut self, piece: &mut [u8]) -> std::io::Result<usize> {
            std::thread::sleep(Duration::from_millis(5));
            piece[0] = 1;
            Ok(1)
        }
    }

    #[test]
    fn a_server_that_trickles_is_given_up() {
        let received = AtomicU64::new(0);
        let mut watched = Watched::new(Trickle, "u", &received, Duration::from_millis(50));
        let start = Instant::now();
        let problem = loop {
            match watched.next(&mut [0; 16]) {
                Ok(came) => assert_eq!(came, 1),
                Err(problem) => break problem,
            }
        };
        assert!(problem.detail.contains("it stalls"), "{}", problem.detail);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert!(received.load(Ordering::Relaxed) > 0);
    }
}
