//! What objects leave behind when all that they reach is counted in.

use rustc_hash::FxHashMap;

use crate::traces::Traces;

/// An object, or one of the two ways to use a relation.
pub(super) type Vertex = u32;

/// How many steps from an object to what taints it are told to people.
const TOLD_STEPS_MAX: usize = 6;

/// Objects, what each leaves behind by itself, and which others run when it is used.
#[derive(Default)]
pub(super) struct Graph {
    /// By vertex: what it is called.
    labels: Vec<Label>,
    /// By vertex: what it leaves behind by itself.
    own: Vec<Traces>,
    /// Why.
    reasons: Vec<(Vertex, Traces, Box<str>)>,
    edges: Vec<Edge>,
}

/// What people know an object by.
#[derive(Clone)]
pub(super) struct Label {
    /// As `function`.
    pub(super) kind: &'static str,
    /// Its name without a schema.
    pub(super) name: Box<str>,
}

struct Edge {
    from: Vertex,
    to: Vertex,
    /// As `trigger`: what of `from` reaches `to`.
    part: &'static str,
}

impl Graph {
    /// A new object.
    pub(super) fn add(&mut self, kind: &'static str, name: &str) -> Vertex {
        self.labels.push(Label { kind, name: name.into() });
        self.own.push(Traces::NONE);
        Vertex::try_from(self.own.len() - 1).expect("objects have 32-bit numbers")
    }

    /// The object leaves that behind by itself.
    pub(super) fn leave(&mut self, vertex: Vertex, traces: Traces, why: impl FnOnce() -> String) {
        if !self.own[vertex as usize].has(traces) {
            self.own[vertex as usize] |= traces;
            self.reasons.push((vertex, traces, why().into()));
        }
    }

    /// Whoever uses `from` uses `to`.
    pub(super) fn reach(&mut self, from: Vertex, to: Vertex, part: &'static str) {
        if from != to {
            self.edges.push(Edge { from, to, part });
        }
    }

    /// Every object's traces, with those of all that it reaches.
    pub(super) fn close(mut self) -> Closure {
        let mut users: Vec<Vec<u32>> = vec![Vec::new(); self.own.len()];
        for (at, edge) in (0..).zip(&self.edges) {
            users[edge.to as usize].push(at);
        }
        let mut traces = self.own.clone();
        let mut causes = FxHashMap::default();
        let mut work: Vec<Vertex> = (0..).zip(&self.own).filter(|(_, own)| !own.is_none()).map(|(v, _)| v).collect();
        // Sets only grow, so cycles end.
        while let Some(vertex) = work.pop() {
            for &at in &users[vertex as usize] {
                let from = self.edges[at as usize].from;
                let more = traces[vertex as usize].without(traces[from as usize]);
                if !more.is_none() {
                    traces[from as usize] |= more;
                    work.push(from);
                    causes.extend(each(more).map(|trace| ((from, trace), at)));
                }
            }
        }
        self.reasons.sort_by_key(|(vertex, ..)| *vertex);
        Closure { graph: self, traces, causes }
    }
}

/// Each trace by itself.
fn each(traces: Traces) -> impl Iterator<Item = Traces> {
    (0..u32::BITS).map(|bit| Traces::of_bits(1 << bit)).filter(move |one| !one.is_none() && traces.has(*one))
}

/// A graph whose traces have reached all that they can.
pub(super) struct Closure {
    graph: Graph,
    traces: Vec<Traces>,
    /// Over which edge an object has got a trace that is not its own.
    causes: FxHashMap<(Vertex, Traces), u32>,
}

impl Closure {
    /// What using the object leaves behind.
    pub(super) fn traces(&self, vertex: Vertex) -> Traces {
        self.traces[vertex as usize]
    }

    /// The traces of all objects.
    pub(super) fn all(&self) -> Traces {
        self.traces.iter().fold(Traces::NONE, |all, one| all | *one)
    }

    /// Why it leaves anything behind, for people: the ways from the object to what taints it, each once.
    pub(super) fn why(&self, vertex: Vertex) -> Vec<String> {
        let mut told: Vec<String> = Vec::new();
        for trace in each(self.traces(vertex)) {
            let way = self.way(vertex, trace);
            if !told.contains(&way) {
                told.push(way);
            }
        }
        told
    }

    fn way(&self, mut vertex: Vertex, trace: Traces) -> String {
        let mut told = String::new();
        for _ in 0..TOLD_STEPS_MAX {
            let Some(at) = self.causes.get(&(vertex, trace)) else {
                let first = self.graph.reasons.partition_point(|(of, ..)| *of < vertex);
                let mut own = self.graph.reasons[first..].iter().take_while(|(of, ..)| *of == vertex);
                return told + own.find(|(_, traces, _)| traces.has(trace)).map_or("", |(_, _, why)| why);
            };
            let edge = &self.graph.edges[*at as usize];
            vertex = edge.to;
            if !edge.part.is_empty() {
                let Label { kind, name } = &self.graph.labels[vertex as usize];
                told += &format!("its {} uses {kind} {name}: ", edge.part);
            }
        }
        told + "and so on"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_go_from_what_is_used_to_all_that_use_it_also_in_a_circle() {
        let mut graph = Graph::default();
        let [even, odd, lock, plain] = ["even", "odd", "lock", "plain"].map(|name| graph.add("function", name));
        graph.reach(even, odd, "body");
        graph.reach(odd, even, "body");
        graph.reach(odd, lock, "body");
        graph.reach(lock, plain, "body");
        graph.leave(lock, Traces::LOCK, || String::from("its body calls pg_advisory_lock"));
        let closure = graph.close();
        for tainted in [even, odd, lock] {
            assert_eq!(closure.traces(tainted), Traces::LOCK);
        }
        assert_eq!(closure.traces(plain), Traces::NONE);
        let why = "its body uses function odd: its body uses function lock: its body calls pg_advisory_lock";
        assert_eq!(closure.why(even), [why]);
        assert!(closure.why(plain).is_empty());
    }

    #[test]
    fn a_long_chain_is_followed_to_its_end_and_told_in_part() {
        let mut graph = Graph::default();
        let chain: Vec<Vertex> = (0..10_000).map(|n| graph.add("view", &n.to_string())).collect();
        for pair in chain.windows(2) {
            graph.reach(pair[0], pair[1], "view");
        }
        graph.leave(chain[9_999], Traces::OPAQUE, String::new);
        let closure = graph.close();
        assert_eq!(closure.traces(chain[0]), Traces::OPAQUE);
        assert!(closure.why(chain[0])[0].ends_with("and so on"));
    }
}
