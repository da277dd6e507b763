//! Training: going on to the bit, what is refused and leaves nothing changed, batches, full disks.

mod common;
mod tiny;

use common::{close, on_every_device, test_on};
use engrad::adapters::{self, Adapted, Lora};
use engrad::nn::{Classifier, Param, files, freeze, named_params};
use engrad::optim::{AdamW, Schedule, Sgd};
use engrad::train::{Group, Loader, Trainable, Trainer};
use engrad::{Device, Error, Ids, Tensor};
use proptest::prelude::*;

/// A fresh run in which everything random or stateful takes part: LoRA with dropout in a model with
/// dropout, AdamW, warm-up, clipping, and shuffled batches.
struct Run {
    model: Classifier,
    trainer: Trainer<Adapted, AdamW>,
    loader: Loader,
}

impl Run {
    fn new(device: &Device) -> Run {
        let model = tiny::classifier(&tiny::config_with_dropout(), device);
        let method = Lora { dropout: 0.2, ..Lora::new(2) };
        let tuned = adapters::attach(&model, "*.attention.self.{query,value}", method)
            .and_then(|tuned| tuned.also_train("classifier.*"))
            .unwrap();
        let schedule = Schedule::cosine(0.05, 3, 20);
        let trainer = Trainer::new(tuned, AdamW::default(), schedule).clipped(0.5).seeded(11);
        Run { model, trainer, loader: Loader::new(4, 3, 2).unwrap() }
    }

    fn train(&mut self, to: u64) -> Vec<f64> {
        let (sentences, labels) = tiny::sentences();
        let steps: Vec<Vec<usize>> = self.loader.steps(self.trainer.steps(), to).collect();
        steps
            .iter()
            .map(|chosen| {
                let ids: Vec<Vec<u32>> = chosen.iter().map(|&at| sentences[at].clone()).collect();
                let labels: Vec<u32> = chosen.iter().map(|&at| labels[at]).collect();
                let batch = self.model.encoder.batch(&ids, None).unwrap();
                let labels = Ids::new(labels, [chosen.len()], 2).unwrap();
                self.trainer.step(|| self.model.forward(&batch).cross_entropy(&labels)).unwrap().loss
            })
            .collect()
    }
}

on_every_device! {
    fn a_resumed_run_goes_on_to_the_bit(device) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("run.safetensors");
        let mut whole = Run::new(device);
        let losses = whole.train(20);
        let mut first = Run::new(device);
        assert_eq!(first.train(10), losses[..10]);
        first.trainer.save(&checkpoint).unwrap();
        let mut second = Run::new(device);
        second.trainer.resume(&checkpoint).unwrap();
        assert_eq!(second.trainer.steps(), 10);
        assert_eq!(second.train(20), losses[10..]);
        assert_eq!(tiny::state(&second.model), tiny::state(&whole.model));
        second.trainer.save(&checkpoint).unwrap();
        first.trainer.resume(&checkpoint).unwrap();
        whole.trainer.save(folder.path().join("whole")).unwrap();
        first.trainer.save(folder.path().join("first")).unwrap();
        let [one, other] = ["whole", "first"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
        assert!(one == other, "the optimisers hold the same bits too");
    }

    fn resuming_before_the_first_step_forgets_what_the_optimiser_saw(device) {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("start");
        let mut run = Run::new(device);
        run.trainer.save(&checkpoint).unwrap();
        let losses = run.train(6);
        run.trainer.resume(&checkpoint).unwrap();
        assert_eq!(run.train(6), losses);
    }

    fn a_trainable_parameter_without_gradient_is_an_error_that_names_it(device) {
        let model = tiny::classifier(&tiny::config(), device);
        let before = tiny::state(&model);
        let (batch, labels) = tiny::batch(&model);
        let mut trainer = Trainer::new(&model, AdamW::default(), Schedule::constant(0.1));
        let done = trainer.step(|| {
            // The pooler is passed over.
            model.head.forward(&model.encoder.forward(&batch).select(1, 0)).cross_entropy(&labels)
        });
        let Err(Error::MissingGradient(names)) = done else { panic!("{done:?}") };
        assert_eq!(names, ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]);
        assert_eq!((tiny::state(&model), trainer.steps()), (before, 0));
        freeze(&model, "*.pooler.*").unwrap();
        trainer.step(|| tiny::loss(&model)).unwrap();
    }

    fn training_nothing_is_an_error(device) {
        let model = tiny::classifier(&tiny::config(), device);
        freeze(&model, "*").unwrap();
        let mut trainer = Trainer::new(&model, Sgd::default(), Schedule::constant(0.1));
        let error = trainer.step(|| tiny::loss(&model)).unwrap_err().to_string();
        assert!(error.contains("no parameter is trainable"), "{error}");
        assert!(trainer.step_over(0, |_| tiny::loss(&model)).is_err());
        assert_eq!(trainer.steps(), 0);
    }

    fn a_loss_that_is_not_finite_is_an_error_and_changes_nothing(device) {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut run = Run::new(device);
            run.train(3);
            let (before, model) = (tiny::state(&run.model), &run.model);
            let error = run.trainer.step(|| tiny::loss(model) * bad).unwrap_err();
            assert!(matches!(error, Error::NotFinite(_)), "{error}");
            assert!(error.to_string().contains("the loss of step 3"), "{error}");
            assert_eq!((tiny::state(&run.model), run.trainer.steps()), (before, 3));
            // The run goes on as if the bad batch had not been.
            assert_eq!(run.train(6), Run::new(device).train(6)[3..]);
        }
    }

    fn a_gradient_that_is_not_finite_is_an_error_when_clipping(device) {
        let model = tiny::classifier(&tiny::config(), device);
        let before = tiny::state(&model);
        let mut trainer = Trainer::new(&model, Sgd::default(), Schedule::constant(0.1)).clipped(1.0);
        // The slope of a root at 0 is infinite, the root itself is 0.
        let error = trainer.step(|| {
            let loss = tiny::loss(&model);
            &loss + (&loss - loss.detach()).sqrt()
        });
        assert!(matches!(error, Err(Error::NotFinite(_))), "{error:?}");
        assert_eq!((tiny::state(&model), trainer.steps()), (before, 0));
    }

    fn accumulated_parts_are_one_large_batch(device) {
        let [whole, parts] = [0, 1].map(|_| tiny::classifier(&tiny::config(), device));
        let (sentences, labels) = tiny::sentences();
        let schedule = Schedule::constant(0.1);
        let mut one = Trainer::new(&whole, Sgd::new(0.9), schedule).clipped(0.2);
        let mut many = Trainer::new(&parts, Sgd::new(0.9), schedule).clipped(0.2);
        for _ in 0..3 {
            let expected = one.step(|| tiny::loss(&whole)).unwrap();
            let found = many.step_over(4, |part| {
                let batch = parts.encoder.batch(&sentences[part..=part], None).unwrap();
                parts.forward(&batch).cross_entropy(&Ids::new([labels[part]], [1], 2).unwrap())
            }).unwrap();
            let [found, expected] = [found, expected].map(|step| [step.loss, step.norm.unwrap()]);
            common::compare(&found, &expected, 1e-5).unwrap();
        }
        for ((path, found), (_, expected)) in named_params(&parts).iter().zip(named_params(&whole)) {
            println!("{path}");
            let (found, expected) = (found.value(), expected.value().to_f64());
            common::compare(&found.to_f64(), &expected, 1e-5).unwrap();
        }
    }

    fn not_a_number_in_the_data_is_a_clear_error(device) {
        let weight = engrad::nn::Linear::from_weights(&Tensor::ones([1, 3], device), None);
        let mut trainer = Trainer::new(&weight, AdamW::default(), Schedule::constant(0.1));
        let data = Tensor::new(&[1.0, f32::NAN, 2.0], [1, 3], device);
        let error = trainer.step(|| weight.forward(&data).square().sum(..)).unwrap_err().to_string();
        assert!(error.contains("loss") && error.contains("NaN") && error.contains("data"), "{error}");
        close(&weight.base().weight, &[1.0; 3], 0.0);
    }

    fn a_checkpoint_of_another_run_is_refused_and_changes_nothing(device) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut run = Run::new(device);
        run.train(2);
        run.trainer.save(path("good")).unwrap();

        let model = tiny::classifier(&tiny::config(), device);
        let mut full = Trainer::new(&model, Sgd::new(0.9), Schedule::constant(0.1));
        full.step(|| tiny::loss(&model)).unwrap();
        full.save(path("of other parameters")).unwrap();
        files::save(path("a model"), &model).unwrap();
        let mut altered = files::read(path("good"), device).unwrap();
        let count = altered.tensors.keys().find(|name| name.ends_with("/steps")).unwrap().clone();
        altered.tensors.insert(count.clone(), Tensor::full(-1.0, [], device));
        files::write(path("of a wrong count"), &altered.tensors, altered.metadata.clone()).unwrap();
        altered.tensors.remove(&count);
        files::write(path("of another optimiser"), &altered.tensors, altered.metadata.clone()).unwrap();
        altered.metadata.insert("step".into(), "18446744073709551615".into());
        files::write(path("of a wrong step"), &altered.tensors, altered.metadata).unwrap();
        std::fs::write(path("no file of tensors"), "{}").unwrap();

        let before = tiny::state(&run.model);
        for (name, expected) in [
            ("of other parameters", "missing"),
            ("a model", "no step"),
            ("of a wrong count", "steps is -1"),
            ("of another optimiser", "steps is missing"),
            ("of a wrong step", "no step"),
            ("no file of tensors", "not a valid safetensors file"),
            ("none", "none"),
        ] {
            let error = run.trainer.resume(path(name)).expect_err(name).to_string();
            assert!(error.contains(expected), "{name}: {error}");
            assert_eq!((tiny::state(&run.model), run.trainer.steps()), (before.clone(), 2), "{name}");
        }
        let after = run.train(4);
        let mut other = Run::new(device);
        assert_eq!(other.train(4)[2..], after, "the optimiser is as it was too");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_while_saving_keeps_the_earlier_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let mut run = Run::new(&Device::Cpu);
    run.train(2);
    run.trainer.save(&path).unwrap();
    let earlier = std::fs::read(&path).unwrap();
    run.train(4);
    // Whatever is written beside the checkpoint lands on a device that is always full.
    std::os::unix::fs::symlink("/dev/full", folder.path().join("run.partial")).unwrap();
    let error = run.trainer.save(&path).unwrap_err();
    let Error::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull, "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), earlier);
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["run"], "nothing half-written stays");
    run.trainer.save(&path).unwrap();
    assert_ne!(std::fs::read(&path).unwrap(), earlier);
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_and_keeps_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run::new(&Device::Cpu);
    let file = folder.path().join("file");
    std::fs::write(&file, "earlier").unwrap();
    assert!(matches!(run.trainer.save(file.join("below a file")), Err(Error::Io { .. })));
    assert!(run.trainer.subject.save(file.join("adapter")).is_err());
    assert!(run.trainer.save(folder.path()).is_err(), "a folder is no file");
    std::fs::create_dir(folder.path().join("file.partial")).unwrap();
    assert!(run.trainer.save(&file).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"earlier");
}

/// One parameter that joined at step 5, as a damaged checkpoint may say of a run at step 0.
struct Late(Param);

impl Trainable for Late {
    fn groups(&self) -> Vec<Group> {
        vec![Group { since: 5, ..Group::of(vec![("late".into(), self.0.clone())]) }]
    }

    fn adapters(&self) -> Option<&Adapted> {
        None
    }

    fn adapters_mut(&mut self) -> Option<&mut Adapted> {
        None
    }
}

#[test]
fn what_joins_later_than_now_trains_as_at_its_beginning() {
    let param = Param::new(&Tensor::ones([1], &Device::Cpu));
    let mut trainer = Trainer::new(Late(param.clone()), Sgd::new(0.0), Schedule::linear(0.25, 0, 10));
    trainer.step(|| param.value().sum(..)).unwrap();
    assert_eq!(param.value().to_vec(), [0.75]);
}

#[test]
fn a_loader_needs_something_to_load() {
    for (count, batch) in [(0, 4), (4, 0), (0, 0)] {
        let error = Loader::new(count, batch, 1).unwrap_err();
        assert!(matches!(error, Error::Data(_)), "{error}");
    }
}

proptest! {
    #[test]
    fn every_example_comes_once_in_an_epoch(
        count in 1usize..40, batch in 1usize..50, seed: u64, epoch in 0u64..1000, bucket in 0usize..5,
    ) {
        let loader = Loader::new(count, batch, seed).unwrap().bucketed(&lengths(count), bucket);
        let batches = loader.epoch(epoch);
        prop_assert_eq!(batches.len(), loader.batches_per_epoch());
        let smaller = batches.iter().filter(|chosen| chosen.len() != batch).count();
        prop_assert_eq!(smaller, usize::from(count % batch != 0));
        let mut all = batches.concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_follows_from_seed_and_step_alone(
        count in 1usize..20, batch in 1usize..8, seed: u64, bucket in 0usize..5,
        from in 0u64..50, length in 0u64..50,
    ) {
        let loader = || Loader::new(count, batch, seed).unwrap().bucketed(&lengths(count), bucket);
        let all: Vec<_> = loader().steps(0, from + length).collect();
        let later: Vec<_> = loader().steps(from, from + length).collect();
        prop_assert_eq!(&all[from as usize..], later);
    }
}

/// A length for each example, in no order.
fn lengths(count: usize) -> Vec<usize> {
    (0..count).map(|example| example * 7 % 11).collect()
}

#[test]
fn examples_of_like_length_share_a_batch() {
    let (lengths, batch) = (lengths(96), 8);
    // What a step computes: every example as long as the longest of its batch.
    let padded = |loader: Loader| -> usize {
        let longest = |chosen: &Vec<usize>| chosen.iter().map(|&example| lengths[example]).max();
        loader.epoch(0).iter().map(|chosen| longest(chosen).unwrap() * chosen.len()).sum()
    };
    let loader = || Loader::new(lengths.len(), batch, 1).unwrap();
    let alike = padded(loader().bucketed(&lengths, 12));
    assert!(alike < lengths.iter().sum::<usize>() * 5 / 4, "{alike}");
    assert!(padded(loader()) > alike * 3 / 2, "{}", padded(loader()));
    assert_eq!(padded(loader().bucketed(&lengths, 1 << 61)), alike, "all in one bucket");
    let order = |epoch| loader().bucketed(&lengths, 12).epoch(epoch);
    assert!(order(0) != order(1) && order(0).concat() != order(1).concat());
}

#[test]
fn epochs_and_seeds_give_different_orders() {
    let order = |seed, epoch| Loader::new(50, 50, seed).unwrap().epoch(epoch);
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
    assert_eq!(order(1, 3), order(1, 3));
}
