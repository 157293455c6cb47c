//! A panic in core costs the connection concerned, never the worker.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use forebay_core::event::Level;
use forebay_core::ids::ConnId;
use forebay_core::io::ClosedBy;

use super::Driver;
use super::backend::Backend;
use crate::inputs::Inputs;

impl<B: Backend> Driver<B> {
    /// Calls an input. A panic in it costs the connection concerned, never the worker. False: it panicked.
    pub(super) fn guard<N: Inputs<Driver<B>>>(
        &mut self,
        inputs: &mut N,
        conn: Option<ConnId>,
        call: impl FnOnce(&mut N, &mut Driver<B>),
    ) -> bool {
        let result = catch_unwind(AssertUnwindSafe(|| call(inputs, self)));
        if let Err(panic) = &result {
            self.on_panic(inputs, conn, &**panic);
        }
        result.is_ok()
    }

    #[cold]
    fn on_panic<N: Inputs<Driver<B>>>(&mut self, inputs: &mut N, conn: Option<ConnId>, panic: &(dyn Any + Send)) {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "no words".to_owned());
        self.event(Level::Error, "panic", vec![("message", text.into())]);
        let Some(id) = conn else { return };
        if self.table.open(id).is_some() {
            self.drop_conn(id.slot);
            let by = ClosedBy::Error("a bug in forebay: see the event `panic`".into());
            // A second panic over the same connection has nothing left to close.
            let _ = catch_unwind(AssertUnwindSafe(|| inputs.closed(self, id, by)));
        }
    }
}
