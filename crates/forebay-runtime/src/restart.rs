//! Settings that are read at a start only.

use forebay_core::config::EngineConfig;

/// Those of them that differ.
pub(crate) fn needs_restart(before: &EngineConfig, after: &EngineConfig) -> Vec<&'static str> {
    let (l, m) = (&before.listen, &after.listen);
    let (e, f) = (&before.engine, &after.engine);
    let metrics = |c: &EngineConfig| c.metrics.as_ref().map(|m| m.address.clone());
    [
        ("listen.address", l.addresses != m.addresses),
        ("listen.port", l.port != m.port),
        ("listen.unix", l.unix != m.unix),
        ("listen.unix_mode", l.unix_mode != m.unix_mode),
        ("listen.unix_group", l.unix_group != m.unix_group),
        ("listen.backlog", l.backlog != m.backlog),
        ("listen.reuse_port", l.reuse_port != m.reuse_port),
        ("engine.workers", e.workers != f.workers),
        ("engine.io", e.io != f.io),
        ("engine.buffers", e.buffers != f.buffers),
        ("engine.buffer_size", e.buffer_size != f.buffer_size),
        ("engine.core_dumps", e.core_dumps != f.core_dumps),
        ("metrics.address", metrics(before) != metrics(after)),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}
