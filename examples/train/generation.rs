//! Generation: a decoder reads a record and puts it into words.
//!
//! A row is the record, an end token, the text, and an end token; the loss counts the text and its end only.
//! Measured while training is that loss on texts not trained on; the best weights then write a text for
//! each record by beam search, which is compared with all texts that people wrote for it.
//! Read next: `methods.rs`.

use std::collections::BTreeMap;
use std::path::Path;

use engrad::metrics::{Bleu, Chrf, RougeL};
use engrad::nn::files::write_whole;
use engrad::nn::{self, Cache, CausalLm, Choose, LanguageModel, Model, Module, Pretrained, Sequences, Side};
use engrad::tasks::{Generation, Record, Records};
use engrad::{CrossEntropy, Error, Ids, Result, Rng, Tensor, inference};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::folder::Folder;
use super::methods;
use super::options::Settings;
use super::progress::Progress;
use super::tokens;
use super::training::Work;

/// Rows whose loss is measured at once.
const MEASURED: usize = 16;
/// Tokens of a row at most, unless the settings or the model's positions say otherwise.
const LONGEST: usize = 512;

/// A record and one of its texts.
struct Row {
    tokens: Vec<u32>,
    /// Where the text begins.
    target: usize,
}

/// A decoder, and a task's rows.
pub struct Writing {
    model: CausalLm,
    config: Value,
    tokenizer: Tokenizer,
    end: u32,
    /// Tokens of a row at most.
    longest: usize,
    train: Vec<Row>,
    lengths: Vec<usize>,
    dev: Vec<Row>,
    /// What texts are written for.
    records: Vec<Record>,
    settings: Settings,
}

/// Rows, padded to the longest, and the tokens to be guessed.
pub struct Batch {
    rows: Sequences,
    /// The places before those tokens, counted over the whole batch: `[targets]`.
    places: Ids,
    /// `[targets]`
    targets: Ids,
}

impl Writing {
    /// Reads the task and the model.
    ///
    /// **Errors** when a file is missing or malformed, or the model is no decoder.
    pub fn new(task: Generation, settings: &Settings) -> Result<Writing> {
        let Records { mut train, mut dev } = task.read(&settings.data)?;
        if let Some(count) = settings.hold_out.map(|count| count as usize) {
            if count >= train.len() {
                let records = train.len();
                return Err(Error::Config(format!("--hold-out {count} of {records} records leaves none")));
            }
            // The same records for every method and seed, spread over the whole file.
            Rng::seeded(0).shuffle(&mut train);
            dev = train.split_off(train.len() - count);
        }
        dev.truncate(settings.dev_rows.map_or(usize::MAX, |rows| rows as usize));
        let (model, config) = model(settings)?;
        let Some(&end) = nn::Generation::greedy(0).ending_as(&config).end.first() else {
            let what = "eos_token_id is missing: the token with which a text ends".to_string();
            return Err(Error::Format { path: settings.model.join("config.json"), what });
        };
        let tokenizer = tokens::need(&settings.model)?;
        let asked = settings.max_length.map_or(LONGEST, |length| length as usize);
        let mut writing = Writing {
            longest: tokens::longest(asked, model.positions(), settings.rank as usize),
            model,
            config,
            tokenizer,
            end,
            train: Vec::new(),
            lengths: Vec::new(),
            dev: Vec::new(),
            records: Vec::new(),
            settings: settings.clone(),
        };
        writing.train = writing.rows(&train)?;
        writing.train.truncate(settings.rows.map_or(usize::MAX, |rows| rows as usize));
        writing.lengths = writing.train.iter().map(|row| row.tokens.len()).collect();
        writing.dev = writing.rows(&dev)?;
        writing.records = dev;
        Ok(writing)
    }

    /// A record's tokens, cut where they would leave too little room for a text, and the end token that stands
    /// between it and its text.
    fn prompt(&self, record: &Record) -> Result<Vec<u32>> {
        let room = (self.settings.new_tokens as usize).min(self.longest / 2);
        let mut tokens = encode(&self.tokenizer, &record.prompt)?;
        tokens.truncate(self.longest.saturating_sub(room + 1));
        tokens.push(self.end);
        Ok(tokens)
    }

    /// Each text of each record as a row; what is too long is cut at its end.
    fn rows(&self, records: &[Record]) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for record in records {
            let prompt = self.prompt(record)?;
            for text in &record.references {
                let mut tokens = prompt.clone();
                tokens.extend(encode(&self.tokenizer, &format!(" {}", text.trim()))?);
                tokens.push(self.end);
                tokens.truncate(self.longest);
                rows.push(Row { tokens, target: prompt.len() });
            }
        }
        Ok(rows)
    }

    fn padded<'a>(&self, rows: impl Iterator<Item = &'a Row>) -> Result<Batch> {
        let rows: Vec<&Row> = rows.collect();
        let tokens: Vec<Vec<u32>> = rows.iter().map(|row| row.tokens.clone()).collect();
        let sequences = self.model.batch(&tokens, Side::Right)?;
        let time = sequences.time();
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (number, row) in rows.iter().enumerate() {
            for at in row.target..row.tokens.len() {
                places.push((number * time + at - 1) as u32);
                targets.push(row.tokens[at]);
            }
        }
        let count = targets.len();
        Ok(Batch {
            places: Ids::new(places, [count], rows.len() * time)?,
            targets: Ids::new(targets, [count], self.model.vocabulary())?,
            rows: sequences,
        })
    }

    /// The score of each token at the places to be guessed: `[targets, vocabulary]`.
    fn scores(&self, model: &CausalLm, batch: &Batch) -> Tensor {
        let hidden = model.hidden(&batch.rows.ids, &mut Cache::none(batch.rows.starts()));
        model.head(&hidden.flatten(0, 1).index_select(0, &batch.places))
    }

    /// The mean loss of a token to be guessed, over all rows to measure on.
    fn dev_loss(&self, model: &CausalLm) -> Result<f64> {
        let mut sorted: Vec<&Row> = self.dev.iter().collect();
        sorted.sort_by_key(|row| row.tokens.len());
        let progress = Progress::new("measuring", 0, sorted.len() as u64);
        let (mut sum, mut count, mut done) = (0.0, 0, 0);
        for part in sorted.chunks(MEASURED) {
            let batch = self.padded(part.iter().copied())?;
            let guessed = batch.targets.values().len();
            let loss = inference(|| self.scores(model, &batch).cross_entropy(&batch.targets)).read_item()?;
            sum += loss * guessed as f64;
            count += guessed;
            done += part.len();
            progress.show(done as u64, String::new());
        }
        Ok(sum / count as f64)
    }

    /// A text for each record.
    fn texts(&self, model: &CausalLm) -> Result<Vec<String>> {
        let settings = nn::Generation {
            end: vec![self.end],
            choose: Choose::Beams {
                beams: self.settings.beams as usize,
                length_penalty: self.settings.length_penalty,
                early: true,
            },
            no_repeat: self.settings.no_repeat as usize,
            ..nn::Generation::greedy(0)
        };
        let progress = Progress::new("writing", 0, self.records.len() as u64);
        let mut texts = Vec::new();
        for record in &self.records {
            let prompt = self.prompt(record)?;
            let room = (self.longest + 1).saturating_sub(prompt.len());
            let settings =
                nn::Generation { most: room.min(self.settings.new_tokens as usize), ..settings.clone() };
            let prompts = model.batch(&[prompt], Side::Left)?;
            let mut tokens = nn::generate(model, &prompts, &settings, &mut |_, _| ())?.remove(0);
            tokens.retain(|&token| token != self.end);
            let text = self.tokenizer.decode(&tokens, true);
            let text = text.map_err(|error| Error::Data(format!("tokens that are no text: {error}")))?;
            texts.push(text.trim().to_string());
            progress.show(texts.len() as u64, String::new());
        }
        Ok(texts)
    }
}

impl Work for Writing {
    type Batch = Batch;

    fn model(&self) -> &dyn Module {
        &self.model
    }

    fn targets(&self) -> &str {
        match self.config["model_type"].as_str() {
            Some("gpt2") => "*.attn.c_attn",
            _ => "*.self_attn.{q_proj,v_proj}",
        }
    }

    fn beside(&self) -> Vec<&str> {
        Vec::new()
    }

    fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    fn batch(&self, rows: &[usize]) -> Result<Batch> {
        self.padded(rows.iter().map(|&row| &self.train[row]))
    }

    fn loss(&self, batch: &Batch) -> Tensor {
        let loss = CrossEntropy { label_smoothing: self.settings.label_smoothing, ..CrossEntropy::default() };
        loss.of(&self.scores(&self.model, batch), &batch.targets)
    }

    fn measure(&self) -> Result<(f64, BTreeMap<String, f64>)> {
        let loss = self.dev_loss(&self.model)?;
        Ok((-loss, BTreeMap::from([("loss".to_string(), loss)])))
    }

    /// The score is BLEU.
    fn conclude(&self, folder: &Folder) -> Result<(f64, BTreeMap<String, f64>)> {
        let (model, _) = model(&self.settings)?;
        methods::load(&model, &folder.best())?;
        let loss = self.dev_loss(&model)?;
        let texts = self.texts(&model)?;
        let references: Vec<Vec<String>> =
            self.records.iter().map(|record| record.references.clone()).collect();
        let line = |(record, text): (&Record, &String)| {
            json!({"prompt": record.prompt, "text": text, "references": record.references}).to_string() + "\n"
        };
        let lines: String = self.records.iter().zip(&texts).map(line).collect();
        write_whole(folder.file("answers.jsonl"), lines.as_bytes())?;
        let bleu = Bleu::default().corpus(&texts, &references).score;
        let values = [
            ("bleu", bleu),
            ("chrf", Chrf::default().corpus(&texts, &references)),
            ("loss", loss),
            ("rouge-l", RougeL::default().corpus(&texts, &references)),
        ];
        Ok((bleu, values.map(|(name, value)| (name.to_string(), value)).into()))
    }
}

fn model(settings: &Settings) -> Result<(CausalLm, Value)> {
    let Pretrained { config, model } = Pretrained::from_directory(&settings.model, &settings.device()?)?;
    match model {
        Model::CausalLm(model) => Ok((model, config)),
        _ => Err(no_decoder(&settings.model)),
    }
}

fn no_decoder(directory: &Path) -> Error {
    let what = "expected a decoder such as GPT-2 or a Llama, which goes on with a text".into();
    Error::Format { path: directory.join("config.json"), what }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer.encode_fast(text, false);
    encoding
        .map(|encoding| encoding.get_ids().to_vec())
        .map_err(|error| Error::Data(format!("the tokenizer refuses a text: {error}")))
}
