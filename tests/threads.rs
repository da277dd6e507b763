//! The thread that asks for it computes too. A process has one pool of threads, so this is a program of its own.

use engrad::device::cpu::use_threads;
use engrad::{Device, Rng, Tensor};

#[test]
fn the_calling_thread_computes_too_and_the_results_are_the_same_bits() {
    let random = |sizes: [usize; 2]| Tensor::normal(1.0, sizes, &mut Rng::seeded(3), &Device::Cpu);
    let product = || random([300, 700]).matmul(&random([700, 400])).to_vec();
    let elsewhere = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(product);
    assert_eq!(rayon::current_thread_index(), None);
    use_threads(Some(2)).unwrap();
    assert_eq!(rayon::current_thread_index(), Some(0));
    assert_eq!(rayon::current_num_threads(), 2);
    assert_eq!(product(), elsewhere);
    // The process has its threads now.
    assert!(use_threads(Some(3)).unwrap_err().to_string().contains("3 threads: "));
    use_threads(None).unwrap();
    assert_eq!(rayon::current_num_threads(), 2);
}
