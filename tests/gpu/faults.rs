//! What can go wrong with a device: each is an error that says so, never a panic and never another device.

use engrad::adapters::{self, IncreLora};
use engrad::device::gpu::{Gpu, GpuOptions, adapters as gpu_adapters};
use engrad::optim::{AdamW, Schedule};
use engrad::train::Trainer;
use engrad::{Device, Error, Ids, Mask, Tensor, attention};

use super::common::{self, compare, largest, random};
use super::own;
use super::training::Network;

#[test]
fn adapters_can_be_listed_and_asked_for_by_name() {
    let Some(_) = common::gpu() else { return };
    let all = gpu_adapters();
    assert!(!all.is_empty());
    for adapter in all {
        println!("{adapter}");
        let options = GpuOptions { name: Some(adapter.name.to_uppercase()), ..GpuOptions::default() };
        assert_eq!(Gpu::open(&options).unwrap().adapter().name, adapter.name);
    }
}

#[test]
fn an_adapter_that_is_not_there_or_is_refused_is_an_error_and_never_another_device() {
    let Some(_) = common::gpu() else { return };
    let none = GpuOptions { name: Some("no such adapter".into()), ..GpuOptions::default() };
    let Err(Error::Device(what)) = Gpu::open(&none) else { panic!("found one") };
    assert!(what.contains("no such adapter") && what.contains(&gpu_adapters()[0].name), "{what}");
    if gpu_adapters().iter().all(|adapter| adapter.is_software()) {
        let refusing = GpuOptions { refuse_software: true, ..GpuOptions::default() };
        let Err(Error::Device(what)) = Gpu::open(&refusing) else { panic!("opened one") };
        assert!(what.contains("only a software adapter"), "{what}");
    }
}

#[test]
fn every_element_of_every_result_is_written() {
    let Some((device, gpu)) = own(&GpuOptions::default()) else { return };
    let results = |device: &Device| {
        let x = random(&[37, 41], 1, device);
        let ids = Ids::new([3, 36, Ids::IGNORED, 0], [4], 37).unwrap();
        let column = Ids::new(vec![1; 37], [37], 41).unwrap();
        let tracked = x.tracked();
        let back = |y: Tensor| y.square().sum(..).backward().of(&tracked).unwrap().clone();
        vec![
            x.exp(),
            x.sum(0),
            x.max(1),
            Tensor::concat(&[&x, &x], 1),
            x.embedding(&ids),
            x.narrow(0, 0, 4).scatter_rows(&ids, 37),
            x.softmax(1),
            attention(&x, &x, &x, &Mask::causal(), 0.1, 0.0),
            x.layer_norm(None, None, 1e-5),
            x.cross_entropy_rows(&column),
            Tensor::recurrence(&x, &x),
            x.sort(1, false).0,
            x.matmul(&x.t()),
            x.gather(1, &x.argmax(1).reshape([37, 1])),
            back(tracked.softmax(1)),
            back(attention(&tracked, &tracked, &tracked, &Mask::causal(), 0.1, 0.0)),
            back(tracked.layer_norm(None, None, 1e-5) * &x),
            back(tracked.cross_entropy_rows(&column)),
        ]
    };
    gpu.poison_new_buffers(true);
    for (at, (found, expected)) in results(&device).iter().zip(results(&Device::Reference)).enumerate() {
        let expected = expected.to_f64();
        compare(&found.to_f64(), &expected, 1e-5 * largest(&expected))
            .unwrap_or_else(|what| panic!("result {at}: {what}"));
    }
}

#[test]
fn a_lost_device_is_an_error_where_the_host_waits_and_a_new_one_goes_on() {
    let Some((device, gpu)) = own(&GpuOptions::default()) else { return };
    let network = Network::new(&device);
    let mut trainer = Trainer::new(&network, AdamW::default(), Schedule::constant(0.01)).clipped(1.0);
    trainer.step(|| network.loss(0)).unwrap();
    // A method whose state holds what it has learnt.
    let other = Network::new(&device);
    let adapted = adapters::attach(&other, "hidden", IncreLora::new(2, 20)).unwrap();
    let growing = Trainer::new(adapted, AdamW::default(), Schedule::constant(0.01));
    let before = random(&[4], 1, &device) + 1.0;
    gpu.destroy();
    let after = random(&[4], 1, &device) + 1.0;
    let lost = |result: engrad::Result<()>| {
        let Err(Error::Device(what)) = result else { panic!("{result:?}") };
        assert!(what.contains("lost") && what.contains("open a new device"), "{what}");
    };
    lost(before.read().map(drop));
    lost(before.to(&Device::Cpu).map(drop));
    lost(after.read().map(drop));
    lost(after.sum(..).read_item().map(drop));
    lost(after.read_argmax(0).map(drop));
    lost(after.read_argsort(0, true).map(drop));
    lost(device.synchronise());
    lost(trainer.step(|| network.loss(1)).map(drop));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lost.safetensors");
    lost(engrad::nn::files::save(&file, &network));
    lost(trainer.save(&file));
    lost(growing.save(&file));
    assert!(before.to_string().contains("lost"), "printing says so too");

    let (fresh, _gpu) = own(&GpuOptions::default()).unwrap();
    let network = Network::new(&fresh);
    let mut trainer = Trainer::new(&network, AdamW::default(), Schedule::constant(0.01));
    assert!(trainer.step(|| network.loss(0)).is_ok());
}

#[test]
fn what_does_not_fit_is_an_error_where_it_is_read_and_the_device_goes_on() {
    let Some((device, _gpu)) = own(&GpuOptions::default()) else { return };
    // 64 TiB from four bytes: broadcasting costs nothing until somebody wants it dense.
    let huge = Tensor::ones([1 << 22, 1 << 22], &device) + 1.0;
    let from_it = (huge.narrow(0, 0, 1).narrow(1, 0, 5) * 2.0).exp();
    for result in [huge.read(), from_it.read()] {
        let Err(Error::Device(what)) = result else { panic!("{:?}", result.map(|x| x.len())) };
        assert!(what.contains("out of memory"), "{what}");
    }
    assert_eq!((Tensor::ones([3], &device) + 1.0).to_vec(), [2.0; 3]);
    device.synchronise().unwrap();
}

#[test]
fn more_than_the_memory_limit_is_an_error_and_what_waits_in_the_pool_makes_room() {
    let limited = GpuOptions { memory_limit: Some(1 << 20), ..GpuOptions::default() };
    let Some((device, gpu)) = own(&limited) else { return };
    let large = |elements: usize| Tensor::ones([elements], &device) + 1.0;
    // Each a size class of its own: the second has room only when the first gives way.
    drop(large(150_000));
    let kept = large(200_000);
    assert_eq!(kept.read().unwrap(), [2.0; 200_000]);
    assert!(gpu.pool_statistics().used + gpu.pool_statistics().pooled <= 1 << 20);
    let Err(Error::Device(what)) = large(100_000).read() else { panic!("there was room") };
    assert!(what.contains("out of memory") && what.contains("1048576"), "{what}");
    drop(kept);
    assert_eq!(large(100_000).read().unwrap(), [2.0; 100_000]);
}
