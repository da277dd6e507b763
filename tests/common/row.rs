//! A row of the op table, and a case of it: one of its sizes in one arrangement, drawn and called.
//! Read next: `table.rs`, the rows.

use engrad::{Device, Rng, Tensor};

use super::Arrangement;

/// The sizes of each input, for each case of a row.
pub type Sizes = &'static [&'static [&'static [usize]]];

/// One op.
pub struct Row {
    /// The op's name, and words that tell rows of the same op apart.
    pub name: &'static str,
    /// The cases; one past several thread pieces is among them.
    pub sizes: Sizes,
    /// The op on its inputs.
    pub call: fn(&[Tensor]) -> Tensor,
    /// How far from the reference, relative to the largest magnitude.
    pub tolerance: f64,
    /// Whether the op only steps, so that no gradient flows.
    pub steps: bool,
    /// Whether the first axis may hold equal elements.
    pub broadcast: bool,
    /// The values of each input; the last entry stands for all further ones.
    values: Vec<Values>,
}

/// What an input's elements may be.
#[derive(Clone, Copy)]
pub enum Values {
    Between(f64, f64),
    /// In `-2..2`, but not nearer to 0 than 0.1, where a slope jumps.
    AwayFromZero,
    /// 0, 1, .. below a limit, so that equal elements meet.
    Whole(f64),
}

/// Cases of at least this many elements are too large for gradients by small steps, which the small
/// cases have shown.
const LARGE: usize = 200;

/// A row with default values (evenly in -2..2) and tolerance.
pub fn row(name: &'static str, sizes: Sizes, call: fn(&[Tensor]) -> Tensor) -> Row {
    let values = vec![Values::Between(-2.0, 2.0)];
    Row { name, sizes, call, tolerance: 1e-5, steps: false, broadcast: true, values }
}

impl Row {
    /// Draws every input from `low..high`.
    pub fn between(mut self, low: f64, high: f64) -> Row {
        self.values = vec![Values::Between(low, high)];
        self
    }

    /// Draws the inputs from these, the last one also for all further inputs.
    pub fn values<const N: usize>(mut self, values: [Values; N]) -> Row {
        self.values = values.to_vec();
        self
    }

    pub fn away_from_zero(self) -> Row {
        self.values([Values::AwayFromZero])
    }

    /// No gradient flows: the op is constant between its jumps.
    pub fn steps(mut self) -> Row {
        self.steps = true;
        self
    }

    /// Never sees equal rows.
    pub fn no_broadcast(mut self, _reason: &str) -> Row {
        self.broadcast = false;
        self
    }

    pub fn tolerance(mut self, tolerance: f64, _reason: &str) -> Row {
        self.tolerance = tolerance;
        self
    }

    /// The op's name alone: `CrossEntropy::of weighted` is called `of`.
    pub fn op(&self) -> &str {
        let first = self.name.split(' ').next().unwrap_or_default();
        first.rsplit("::").next().unwrap_or_default()
    }

    /// Each case in each arrangement that differs from the dense one.
    pub fn cases(&self) -> Vec<Case<'_>> {
        let all = self.sizes.iter().flat_map(|&sizes| Arrangement::ALL.map(|way| (sizes, way)));
        all.filter(|&(sizes, way)| {
            let differs = sizes.iter().any(|sizes| match way {
                Arrangement::Dense => true,
                Arrangement::Transposed => sizes.len() > 1,
                Arrangement::Stepped | Arrangement::Flipped => !sizes.is_empty(),
                Arrangement::Broadcast => sizes.len() > 1 && sizes[0] > 1 && self.broadcast,
            });
            differs || sizes.is_empty() && way == Arrangement::Dense
        })
        .map(|(sizes, arrangement)| Case { row: self, sizes, arrangement })
        .collect()
    }
}

/// A row with given sizes and arrangement.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// What is called.
    pub row: &'a Row,
    /// The sizes of each input.
    pub sizes: &'a [&'a [usize]],
    /// How the inputs lie in memory.
    pub arrangement: Arrangement,
}

/// What came out of a case: the result and the gradient of each input as it is stored.
pub struct Outcome {
    /// The result's sizes.
    pub sizes: Vec<usize>,
    /// The result.
    pub value: Vec<f64>,
    /// By input; `None` where none flows.
    pub gradients: Vec<Option<Vec<f64>>>,
}

impl Case<'_> {
    /// What the case is called in messages.
    pub fn name(&self) -> String {
        format!("{} {:?} {:?}", self.row.name, self.sizes, self.arrangement)
    }

    /// Whether there are too many elements for small steps.
    pub fn is_large(&self) -> bool {
        self.sizes.iter().any(|sizes| sizes.iter().product::<usize>() >= LARGE)
    }

    /// The inputs as they are stored.
    pub fn stored(&self, device: &Device) -> Vec<Tensor> {
        let seed = self.row.name.bytes().fold(7, |seed, byte| seed * 31 % 1_000_003 + u64::from(byte));
        let stored = |(at, sizes): (usize, &&[usize])| {
            let sizes = self.arrangement.stored(sizes);
            let values = self.row.values[at.min(self.row.values.len() - 1)];
            let mut rng = Rng::derived(seed, at as u64);
            let mut draw = || match values {
                Values::Between(low, high) => low + (high - low) * rng.uniform(),
                Values::AwayFromZero => (0.1 + 1.9 * rng.uniform()).copysign(rng.uniform() - 0.5),
                Values::Whole(limit) => (limit * rng.uniform()).floor(),
            };
            let values: Vec<f32> = (0..sizes.iter().product()).map(|_| draw() as f32).collect();
            Tensor::new(&values, &sizes, device)
        };
        self.sizes.iter().enumerate().map(stored).collect()
    }

    /// Views the stored inputs and calls the op.
    pub fn call(&self, stored: &[Tensor]) -> Tensor {
        let view = |(x, sizes): (&Tensor, &&[usize])| self.arrangement.view(x, sizes);
        let inputs: Vec<Tensor> = stored.iter().zip(self.sizes).map(view).collect();
        (self.row.call)(&inputs)
    }

    /// Result and gradients on a device, from a fixed random gradient of the result.
    pub fn run(&self, device: &Device) -> Outcome {
        let leaves: Vec<Tensor> = self.stored(device).iter().map(Tensor::tracked).collect();
        let output = self.call(&leaves);
        let (sizes, value) = (output.sizes().to_vec(), output.to_f64());
        // The incoming gradient lies in memory as the inputs do.
        let way = match self.arrangement {
            Arrangement::Broadcast => Arrangement::Dense,
            other => other,
        };
        let g = super::random(&way.stored(&sizes), 99, device);
        let gradients = output.backward_with(way.view(&g, &sizes));
        let of = |leaf: &Tensor| gradients.of(leaf).map(Tensor::to_f64);
        Outcome { sizes, value, gradients: leaves.iter().map(of).collect() }
    }
}
