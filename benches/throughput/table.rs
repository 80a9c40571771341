//! Tables as text, and figures as people read them.

use std::time::Duration;

use bytesize::ByteSize;

/// Prints columns as wide as they need to be: the first to the left, the others to the right.
pub fn print(header: &[&str], rows: &[Vec<String>]) {
    let header: Vec<_> = header.iter().map(|&title| title.to_owned()).collect();
    let all = || std::iter::once(&header).chain(rows);
    let width = |column: usize| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..header.len()).map(|column| width(column).unwrap_or_default()).collect();
    for row in all() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

pub fn spread((least, most): (Duration, Duration)) -> String {
    format!("{} - {}", time(least), time(most))
}

pub fn speed(bytes_per_second: f64) -> String {
    format!("{:.2} GB/s", bytes_per_second / 1e9)
}

pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// For sizes that are powers of ten.
pub fn decimal_size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}
