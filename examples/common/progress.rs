//! A bar where someone is watching; a line now and then where the output goes to a file.
//! Read next: `finetune/stage.rs`, a long step.

use indicatif::{ProgressBar, ProgressStyle};

/// How far a long step is.
pub struct Progress {
    bar: ProgressBar,
    name: String,
    total: u64,
}

impl Progress {
    /// A step of which `done` of `total` parts are done already.
    pub fn new(name: &str, done: u64, total: u64) -> Progress {
        let bar = ProgressBar::new(total).with_position(done).with_prefix(name.to_string());
        let style = ProgressStyle::with_template("{prefix:<11} [{bar:28}] {pos}/{len}  {msg}  {eta} left");
        bar.set_style(style.expect("the template above is well formed").progress_chars("=> "));
        bar.reset_eta();
        Progress { bar, name: name.into(), total }
    }

    /// `done` parts are done; `text` says how it goes.
    pub fn show(&self, done: u64, text: String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(text);
            self.bar.set_position(done);
        } else if done.is_multiple_of(self.total.div_ceil(5)) || done == self.total {
            let left = self.bar.elapsed().mul_f64((self.total - done) as f64 / done.max(1) as f64);
            eprintln!("{:<11} {done}/{}  {text}  {:.0} s left", self.name, self.total, left.as_secs_f64());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.abandon();
    }
}
