//! An object in the making.

use std::fmt;
use std::io::{self, Write};
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diskette_core::Result;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use crate::object::{Object, open, told};

/// An object that is put into a store while it is made. Under its key there is what was there before, until
/// [`commit`](Self::commit) has put all of it there. Dropped before, it leaves nothing.
///
/// What is longer than a part goes up in parts of equal size, several at once. A program that is killed meanwhile cannot take
/// them back: stores have rules by which they remove what nobody completes.
pub struct S3Upload {
    object: Arc<Object>,
    state: Arc<Mutex<State>>,
}

/// What takes the object's bytes, from its first to its last.
struct Writer {
    object: Arc<Object>,
    state: Arc<Mutex<State>>,
}

struct State {
    part_size: usize,
    /// The part that is being filled.
    part: Vec<u8>,
    upload: Option<Box<dyn MultipartUpload>>,
    under_way: JoinSet<object_store::Result<()>>,
}

/// The size of a part, unless the object may need more of them than there can be.
const PART: u64 = 8 << 20;
/// Into how many parts an object may be divided. Stores take 10,000.
const MOST_PARTS: u64 = 9_900;
/// Bytes that are under way at once, if that is more than one part.
const UNDER_WAY: usize = 32 << 20;

impl S3Upload {
    /// An object for `address`, that will have no more than `most` bytes.
    pub fn create(address: &str, most: u64) -> Result<Self> {
        let size = PART.max(most.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        let state = State {
            part_size: usize::try_from(size).unwrap_or(usize::MAX),
            part: Vec::new(),
            upload: None,
            under_way: JoinSet::new(),
        };
        Ok(Self {
            object: Arc::new(open(address)?),
            state: Arc::new(Mutex::new(state)),
        })
    }

    /// What takes the object's bytes, from its first to its last. An error of the store's is told by the next write, or by
    /// [`commit`](Self::commit).
    #[must_use]
    pub fn writer(&self) -> Box<dyn Write + Send> {
        Box::new(Writer {
            object: Arc::clone(&self.object),
            state: Arc::clone(&self.state),
        })
    }

    /// Puts what was written under the key.
    pub fn commit(self) -> Result<()> {
        let done = lock(&self.state).complete(&self.object);
        done.map_err(|source| Object::failed(&self.object.address, "finish", source))
    }
}

impl Drop for S3Upload {
    fn drop(&mut self) {
        lock(&self.state).abort(&self.object);
    }
}

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        lock(&self.state).write(&self.object, buf)
    }

    /// Nothing: parts have their size.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A panic elsewhere ends the upload; what is noted down is whole.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn write(&mut self, object: &Object, buf: &[u8]) -> io::Result<usize> {
        if self.part.len() == self.part_size {
            self.send_part(object)?;
        }
        let len = buf.len().min(self.part_size - self.part.len());
        self.part.extend_from_slice(&buf[..len]);
        Ok(len)
    }

    fn send_part(&mut self, object: &Object) -> io::Result<()> {
        let most = (UNDER_WAY / self.part_size).max(1);
        self.wait_until(object, most - 1)?;
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => {
                let begun = object.store.put_multipart(&object.key);
                let begun = object.runtime.block_on(begun).map_err(told)?;
                self.upload.insert(begun)
            }
        };
        let part = upload.put_part(take(&mut self.part).into());
        self.under_way.spawn_on(part, object.runtime.handle());
        Ok(())
    }

    /// Waits until no more than so many parts are under way.
    fn wait_until(&mut self, object: &Object, most: usize) -> io::Result<()> {
        while self.under_way.len() > most {
            let done = object.runtime.block_on(self.under_way.join_next());
            match done {
                Some(Ok(done)) => done.map_err(told)?,
                Some(Err(ended)) => return Err(io::Error::other(ended)),
                None => break,
            }
        }
        Ok(())
    }

    fn complete(&mut self, object: &Object) -> io::Result<()> {
        if self.upload.is_none() {
            let all = PutPayload::from(take(&mut self.part));
            let put = object.store.put(&object.key, all);
            return object.runtime.block_on(put).map(|_| ()).map_err(told);
        }
        if !self.part.is_empty() {
            self.send_part(object)?;
        }
        self.wait_until(object, 0)?;
        if let Some(upload) = &mut self.upload {
            object.runtime.block_on(upload.complete()).map_err(told)?;
        }
        self.upload = None;
        Ok(())
    }

    /// Has the store forget the parts.
    fn abort(&mut self, object: &Object) {
        let Some(mut upload) = self.upload.take() else {
            return;
        };
        object.runtime.block_on(async {
            // A part that arrived after the upload's end would stay.
            while self.under_way.join_next().await.is_some() {}
            // There is another error to tell.
            let _ = upload.abort().await;
        });
    }
}

impl fmt::Debug for S3Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Upload")
            .field("address", &self.object.address)
            .finish_non_exhaustive()
    }
}
