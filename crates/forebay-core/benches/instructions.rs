//! The hot loop for an instruction counter: `instructions KIND COUNT` runs COUNT transactions and ends. Two runs of
//! different length tell what one transaction costs, whatever the start costs.

mod scene;

use scene::{Kind, Scene};

fn main() {
    // cargo adds --bench.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let [wanted, count] = words.as_slice() else {
        return eprintln!("usage: instructions simple|prepared|extended|queued COUNT");
    };
    let (_, kind) = Kind::ALL.into_iter().find(|(name, _)| name == wanted).expect("the kind is one of four");
    let mut scene = Scene::new(kind);
    for _ in 0..count.parse::<u32>().expect("COUNT is a number") {
        scene.transaction();
    }
}
