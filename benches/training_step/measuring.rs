//! How steps are timed, and the line that says what came out.

use std::hint::black_box;
use std::time::Instant;

use engrad::device;

use super::Options;

/// Times steps on so many tokens each; `step` gives its loss.
pub fn measure_steps(options: &Options, tokens: usize, mut step: impl FnMut() -> f64) {
    let (mut times, mut losses, mut first) = (Vec::new(), Vec::new(), 0.0);
    for i in 0..options.warmup + options.steps {
        let ms = milliseconds(|| {
            losses.push(step());
            options.device.synchronise().expect("the device goes on");
        });
        if i == 0 {
            first = since_start();
        }
        if i >= options.warmup {
            times.push(ms);
        }
    }
    let (median, _, _) = spread(&times);
    let (tokens, last) = (tokens as f64 / median * 1e3, losses[losses.len() - 1]);
    let rest = format!("\"tok_s\":{tokens:.2},\"first_s\":{first:.2},\"loss\":[{},{last}]", losses[0]);
    emit(options, &times, &rest);
    if options.profile {
        profile(step);
    }
}

/// How long `work` takes.
pub fn milliseconds<R>(work: impl FnOnce() -> R) -> f64 {
    let started = Instant::now();
    black_box(work());
    started.elapsed().as_secs_f64() * 1e3
}

/// Prints where the time of `work` goes.
pub fn profile<R>(work: impl FnMut() -> R) {
    let (_, counts) = device::counted(work);
    let total: f64 = counts.values().map(|count| count.time.as_secs_f64() * 1e3).sum();
    for (name, count) in counts {
        let ms = count.time.as_secs_f64() * 1e3;
        let (gflops, gbytes) = (count.flops as f64 / ms / 1e6, count.bytes as f64 / ms / 1e6);
        eprintln!(
            "{name:>20}: {:4} runs {ms:8.2} ms {:5.1} %  {gflops:7.1} GFLOP/s {gbytes:6.1} GB/s",
            count.runs,
            100.0 * ms / total
        );
    }
    eprintln!("{total:.1} ms in kernels");
}

/// Median, smallest and largest.
pub fn spread(times: &[f64]) -> (f64, f64, f64) {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median =
        if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    (median, sorted[0], sorted[sorted.len() - 1])
}

/// Prints one line of JSON: the settings, the times in milliseconds, and the `rest`, entries of its own.
pub fn emit(options: &Options, times: &[f64], rest: &str) {
    let (median, least, most) = spread(times);
    println!(
        "{{\"peer\":\"{}\",\"device\":\"{}\",\"work\":\"{}\",\"threads\":{},\"rss_mb\":{},\
         \"ms\":{median:.4},\"ms_min\":{least:.4},\"ms_max\":{most:.4},\"n\":{},{rest}}}",
        options.peer,
        options.device,
        options.work,
        options.threads,
        peak_memory_mb().unwrap_or(0),
        times.len()
    );
}

/// The largest resident memory of this process, where the system tells.
fn peak_memory_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// Seconds since this process began, where the system tells.
pub fn since_start() -> f64 {
    let read = || {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let begun: f64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        Some(uptime.split_whitespace().next()?.parse::<f64>().ok()? - begun / 100.0)
    };
    read().unwrap_or(0.0)
}
