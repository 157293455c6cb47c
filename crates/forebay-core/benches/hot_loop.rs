//! Time of the hot loop: a transaction from the client's bytes to its reply, without a socket.

mod scene;

use criterion::{Criterion, criterion_group, criterion_main};
use scene::{Kind, Scene};

fn hot_loop(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transaction");
    for (name, kind) in Kind::ALL {
        let mut scene = Scene::new(kind);
        group.bench_function(name, |bencher| bencher.iter(|| scene.transaction()));
    }
    group.finish();
}

criterion_group!(benches, hot_loop);
criterion_main!(benches);
