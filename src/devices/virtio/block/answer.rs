//! The end of a request: how its transfer went, what the driver is told, and the return
//! of its chain. Each request is answered once, whoever carried it out.

use std::io;
use std::sync::atomic::Ordering;

use super::disk::Access;
use super::request::{ID_LEN, Operation, Status};
use super::serve::Session;
use super::slots::Request;
use super::worker::Worker;

impl Worker {
    /// Answers the requests that have ended since the last call; those of which the
    /// kernel has transferred a part only go on.
    pub(super) fn answer_ended(&mut self, session: &mut Session) {
        let mut transferred = std::mem::take(&mut self.transferred);
        self.sleeper.reap(&mut transferred);
        for (request, result) in transferred.drain(..) {
            self.end_transfer(session, request, result);
        }
        self.transferred = transferred;
        if self.in_pool == 0 {
            return;
        }
        let mut finished = std::mem::take(&mut self.finished);
        self.returns.take(&mut finished);
        self.in_pool = self.in_pool.saturating_sub(finished.len());
        for (request, result) in finished.drain(..) {
            self.finish(session, request, result);
        }
        self.finished = finished;
    }

    /// Gives `request` to the pool.
    pub(super) fn hand_over(&mut self, request: Box<Request>) {
        self.in_pool = self.in_pool.saturating_add(1);
        self.pool.hand_over(request, self.queue, &self.returns);
    }

    /// Carries out `request` on this thread.
    pub(super) fn make_itself(&mut self, session: &mut Session, mut request: Box<Request>) {
        if let Some(counters) = self.counters.queue(self.queue) {
            counters.system_call();
        }
        let result = request.carry_out(&*self.disk, self.writes_through());
        self.finish(session, request, result);
    }

    /// Whether a write is made stable before it is answered.
    pub(super) fn writes_through(&self) -> bool {
        self.write_through.load(Ordering::Acquire)
    }

    /// The kernel has transferred `result` bytes, or `-result` says why not.
    fn end_transfer(&mut self, session: &mut Session, mut request: Box<Request>, result: i32) {
        let access = match request.operation {
            Operation::Write { .. } => Access::Write,
            _ => Access::Read,
        };
        let count = match usize::try_from(result) {
            // A file that has become shorter, or a device that takes nothing more.
            Ok(0) if access == Access::Read => return self.fail(session, request, eof()),
            Ok(0) => return self.fail(session, request, io::ErrorKind::WriteZero.into()),
            Ok(count) => count.min(request.data.len()),
            Err(_) => {
                let errno = result.saturating_neg();
                if matches!(errno, libc::EAGAIN | libc::EINTR | libc::EOPNOTSUPP) {
                    return self.hand_over(request);
                }
                let error = io::Error::from_raw_os_error(errno);
                return self.fail(session, request, error);
            }
        };
        if access == Access::Read {
            request.data.mark_dirty(count);
        }
        request.done = request.done.saturating_add(count);
        request.data.advance(count);
        if !request.data.is_empty() {
            return self.begin(session, request, false);
        }
        if let Operation::Write { offset } = request.operation {
            self.disk.written(offset, request.done as u64);
            request.written = true;
            if self.writes_through() {
                // The driver has chosen so while this was under way.
                return self.hand_over(request);
            }
        }
        self.succeed(session, request);
    }

    /// `request` was carried out by blocking calls, or not.
    fn finish(&mut self, session: &mut Session, mut request: Box<Request>, result: io::Result<()>) {
        if let Err(error) = result {
            return self.fail(session, request, error);
        }
        let rest = request.data.len();
        if matches!(request.operation, Operation::Read { .. }) {
            request.data.mark_dirty(rest);
        }
        request.done = request.done.saturating_add(rest);
        self.succeed(session, request);
    }

    fn succeed(&mut self, session: &mut Session, request: Box<Request>) {
        let written = match request.operation {
            Operation::Read { .. } => request.done,
            _ => 0,
        };
        self.answer(session, request, Status::Ok, written);
    }

    fn fail(&mut self, session: &mut Session, request: Box<Request>, error: io::Error) {
        let may_lack = matches!(
            request.operation,
            Operation::Discard(_) | Operation::WriteZeroes(_)
        );
        if may_lack && error.kind() == io::ErrorKind::Unsupported {
            return self.answer(session, request, Status::Unsupported, 0);
        }
        self.report.failed(&request, &error);
        // What a read has brought before it failed is there, from the front on.
        let written = match request.operation {
            Operation::Read { .. } => request.done,
            _ => 0,
        };
        self.answer(session, request, Status::IoError, written);
    }

    /// GET_ID: as much of the identity as there is room for.
    pub(super) fn answer_id(&mut self, session: &mut Session, request: Box<Request>) {
        let len = request.data.len().min(ID_LEN);
        let id = self.serial.get(..len).unwrap_or_default();
        let status = match request.data.copy_in(0, id) {
            true => Status::Ok,
            false => Status::IoError,
        };
        self.answer(session, request, status, len);
    }

    /// Writes the status and returns the chain; `written` bytes of its data were written.
    pub(super) fn answer(
        &mut self,
        session: &mut Session,
        request: Box<Request>,
        status: Status,
        written: usize,
    ) {
        self.count(&request, status);
        if session.broken.is_none() {
            let place = request.status.as_ref();
            let used = place.map_or(0, |place| place.answer(&self.ram, status, written));
            let pushed = session.queue.rings.push_used(request.head, used);
            if let Err(error) = pushed {
                session.broken = Some(error);
            }
            self.returned = true;
        }
        self.slots.put(request);
    }

    fn count(&self, request: &Request, status: Status) {
        let Some(counters) = self.counters.queue(self.queue) else {
            return;
        };
        let bytes = request.done as u64;
        match (status, request.operation) {
            (Status::Ok, Operation::Read { .. }) => counters.answered(bytes, 0),
            (Status::Ok, Operation::Write { .. }) => counters.answered(0, bytes),
            (Status::Ok, _) => counters.answered(0, 0),
            _ => counters.failed(),
        }
    }
}

fn eof() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}
