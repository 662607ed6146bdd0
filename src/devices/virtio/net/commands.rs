//! What a queue pair's thread does besides moving frames: orders, news of the link, and
//! on the first pair's the control queue.

use std::sync::Arc;

use super::control_queue::{ControlQueue, Request, Taken};
use super::course::{Course, Side};
use super::link::{Gone, HEADER_LEN, LONGEST_FRAME, Port, Received};
use super::orders::Order;
use super::serve::{Failure, Session};
use super::worker::Worker;
use crate::devices::virtio::queue::QueueError;
use crate::memory::IoBuffers;

/// Commands in a round at most.
const COMMANDS: usize = 16;
/// Frames that wait on a link at most, more than a tap's queue has unless told otherwise.
const MOST_WAITING: usize = 4096;

impl Worker {
    /// Sees to what is not about frames.
    pub(super) fn attend(
        &mut self,
        session: &mut Session,
        course: &mut Course,
    ) -> Result<(), Failure> {
        if let Some((number, order)) = session.orders.news(self.index) {
            let done = self.carry_out(order, session);
            session.orders.obeyed(self.index, number, done);
            // What waits on a link that was not listened to is not told of again.
            course.receive.becomes_due(Side::Idle);
        }
        if std::mem::take(&mut course.news)
            && let Some(watch) = &mut self.watch
            && self.link.set_up(watch.is_up(), session.agreed.announce())
        {
            session.interrupt.config_changed();
        }
        if std::mem::take(&mut course.doubt) {
            // There is no room to receive what may have come before the link's end.
            self.drop_waiting(session);
        }
        if self.port.is_gone() {
            // What waits for room there is to be dropped.
            course.transmit.becomes_due(Side::Blocked);
        }
        if std::mem::take(&mut course.commands) {
            course.commands = self.take_commands(session)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, order: Order, session: &Session) -> bool {
        let enabled = self.index < order.pairs;
        // One that is gone is as the driver wants it to be.
        let was_gone = self.port.is_gone();
        let narrows = self.port.narrows(order.offloads);
        let done = self.port.set_offloads(order.offloads);
        match done.and_then(|()| self.port.set_enabled(enabled)) {
            Ok(()) if narrows => self.drop_waiting(session),
            Ok(()) => {}
            Err(error) => self.lose(&error, session),
        }
        was_gone || !self.port.is_gone()
    }

    /// Drops the frames that wait on the link: they may be of a kind that the driver
    /// does not take any more.
    fn drop_waiting(&mut self, session: &Session) {
        let nowhere = IoBuffers::new(session.receive.rings.ram().clone(), 0);
        let mut spill = vec![0; HEADER_LEN + LONGEST_FRAME];
        for _ in 0..MOST_WAITING {
            match self.port.receive(&nowhere, &mut spill) {
                Ok(Received::Nothing) => break,
                Ok(Received::Frame(_)) => {
                    if let Some(pair) = self.counters.pair(self.index) {
                        pair.received.dropped();
                    }
                }
                Err(Gone(error)) => {
                    self.lose(&error, session);
                    break;
                }
            }
        }
    }

    /// Serves the control queue; whether it is to be looked at again at once.
    fn take_commands(&mut self, session: &mut Session) -> Result<bool, Failure> {
        let Some(mut control) = session.control.take() else {
            return Ok(false);
        };
        let more = self.take_commands_of(&mut control, session);
        session.control = Some(control);
        more
    }

    fn take_commands_of(
        &mut self,
        control: &mut ControlQueue,
        session: &mut Session,
    ) -> Result<bool, Failure> {
        let mut more = true;
        for _ in 0..COMMANDS {
            if control.is_busy() {
                let Some(done) = session.orders.outcome() else {
                    // Who obeys last nudges this thread.
                    more = false;
                    break;
                };
                control.answer(done)?;
            }
            match control.take(session.agreed)? {
                Taken::Refused => {}
                Taken::Request(request) => self.begin_command(request, control, session)?,
                Taken::Nothing => {
                    more = control.queue.rings.enable_kicks()?;
                    break;
                }
            }
        }
        if control.queue.rings.needs_interrupt()?
            && let Some(fd) = session.interrupt.raise(control.queue.index)
        {
            self.sleeper.count_call();
            let _ = fd.write(1);
        }
        Ok(more)
    }

    /// Carries a command out, or gives the order to.
    fn begin_command(
        &mut self,
        request: Request,
        control: &mut ControlQueue,
        session: &mut Session,
    ) -> Result<(), QueueError> {
        let orders = Arc::clone(&session.orders);
        let order = match request {
            Request::Announced => {
                self.link.announced();
                return control.answer(true);
            }
            Request::Pairs(pairs) if usize::from(pairs) > orders.pairs() => {
                return control.answer(false);
            }
            Request::Pairs(pairs) => Order {
                pairs: pairs.into(),
                ..orders.order()
            },
            Request::Offloads(offloads) => Order {
                offloads,
                ..orders.order()
            },
        };
        orders.issue(order);
        if let Some((number, order)) = orders.news(self.index) {
            let done = self.carry_out(order, session);
            orders.obeyed(self.index, number, done);
        }
        Ok(())
    }
}
