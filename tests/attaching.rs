//! Where adapters may sit and what may be trained beside them: what fits nowhere is named, and a model that refuses is
//! as it was. Read next: `adapters.rs`, the laws of what is attached.

mod common;
mod subjects;
mod tiny;

use common::{on_every_device, test_on};
use engrad::adapters::{self, Adapted, Lora};
use engrad::nn::{Classifier, Form, Linear, Module, Param, Walker, freeze, sockets, unfreeze};
use engrad::{Error, Tensor};
use subjects::{Subject, every, model, output};

on_every_device! {
    fn what_is_trained_beside_an_adapter_is_saved_as_whole_modules(device) {
        every(|subject| {
            let folder = tempfile::tempdir().unwrap();
            let one = model(device);
            let tuned = subject.bare(&one).also_train("{classifier.weight,*.output.LayerNorm.*}").unwrap();
            subjects::scatter(&tuned, 31);
            tuned.save(folder.path()).unwrap();
            let other = model(device);
            let loaded = adapters::load(&other, folder.path()).unwrap();
            assert_eq!(output(&other), output(&one));
            let paths = |tuned: &Adapted| -> Vec<String> {
                let mut paths: Vec<String> = tuned.trainable().into_iter().map(|(path, _)| path).collect();
                paths.sort();
                paths
            };
            // modules_to_save names whole modules, so the head's bias is trained too after loading.
            let mut expected = paths(&tuned);
            expected.push("classifier.bias".into());
            expected.sort();
            assert_eq!(paths(&loaded), expected);
        });
    }

    fn a_layer_is_adapted_or_trained_beside_but_not_both(device) {
        let model = model(device);
        let before = tiny::state(&model);
        for pattern in ["*.query.bias", "*.query.weight", "*.attention.*"] {
            let tuned = adapters::attach(&model, "*.{query,value}", Lora::new(2)).unwrap();
            let error = tuned.also_train(pattern).err().unwrap().to_string();
            assert!(error.contains(pattern) && error.contains("query"), "{error}");
            assert!(tiny::state(&model) == before);
        }
    }

    fn what_a_file_could_not_name_is_not_trained_beside(device) {
        /// A layer, and a parameter that stands in no module.
        struct Bare(Linear, Param);
        impl Module for Bare {
            fn walk(&self, at: &mut Walker<'_>) {
                at.child("layer", &self.0);
                at.param("gain", &self.1);
            }
        }
        let weight = Tensor::ones([2, 2], device);
        let model = Bare(Linear::from_weights(&weight, None), Param::new(&Tensor::ones([2], device)));
        let error = adapters::attach(&model, "layer", Lora::new(1)).unwrap().also_train("gain").err().unwrap();
        assert!(error.to_string().contains("gain, which stands in no module"), "{error}");
        let buffer = Param::with_form(&Tensor::ones([2], device), Form::Buffer);
        let model = Bare(Linear::from_weights(&weight, None), buffer);
        let error = adapters::attach(&model, "layer", Lora::new(1)).unwrap().also_train("gain").err().unwrap();
        assert!(error.to_string().contains("no parameter fits"), "{error}");
    }

    fn a_pattern_that_fits_nothing_names_a_layer_that_exists(device) {
        every(|subject| {
            let model = model(device);
            let state = tiny::state(&model);
            let error = adapters::attach(&model, "*.q_proj", subject.method()).err().unwrap().to_string();
            assert!(error.contains("*.q_proj"), "{error}");
            assert!(error.contains("bert.encoder.layer.0.attention.self.query"), "{error}");
            assert_eq!(tiny::state(&model), state);
            let error = subject.bare(&model).also_train("score.*").err().unwrap().to_string();
            assert!(error.contains("score.*"), "{error}");
            assert!(error.contains("bert.embeddings.word_embeddings.weight"), "{error}");
            assert_eq!(tiny::state(&model), state, "the adapters are out again");
        });
    }

    fn a_failing_attach_leaves_the_model_as_it_was(device) {
        every(|subject| {
            let model = model(device);
            if sites_of(subject, &model) < 2 {
                return;
            }
            // One of the sites is taken.
            let first = adapters::attach(&model, "*.layer.1.*.value", Lora::new(1)).unwrap();
            let (before, state) = (output(&model), tiny::state(&model));
            let error = adapters::attach(&model, subject.targets.clone(), subject.method()).err().unwrap().to_string();
            assert!(error.contains("self.value") && error.contains("detach"), "{error}");
            assert_eq!((output(&model), tiny::state(&model)), (before, state));
            first.detach();
            assert!(sockets(&model).iter().all(|(_, socket)| socket.adapter().is_none()));
        });
    }

    fn a_failing_load_leaves_the_model_as_it_was(device) {
        every(|subject| {
            let folder = tempfile::tempdir().unwrap();
            subject.moved(&model(device)).save(folder.path()).unwrap();
            std::fs::write(folder.path().join("adapter_model.safetensors"), b"cut").unwrap();
            let model = model(device);
            freeze(&model, "*.pooler.*").unwrap();
            let (before, state) = (output(&model), tiny::state(&model));
            assert!(matches!(adapters::load(&model, folder.path()), Err(Error::Format { .. })));
            assert_eq!(tiny::state(&model), state);
            assert_eq!(output(&model), before);
            unfreeze(&model, "*").unwrap();
        });
    }
}

/// In how many layers a subject sits: none, where it trains parts of the base.
fn sites_of(subject: &Subject, model: &Classifier) -> usize {
    let tuned = subject.bare(model);
    let sites = tuned.sites().len();
    tuned.detach();
    sites
}
