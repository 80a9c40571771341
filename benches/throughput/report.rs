//! Figures as people read them, and tables in Markdown.

use std::time::Duration;

use bytesize::ByteSize;

pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// Returns a quotient with two digits after the point.
pub fn ratio(dividend: u64, divisor: u64) -> String {
    let hundredths = (dividend * 100 + divisor / 2) / divisor;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Returns a bar, the longest for the greatest value.
pub fn bar(value: u64, greatest: u64) -> String {
    (0..value * 20 / greatest).map(|_| '█').collect()
}

pub fn speed(bytes_per_second: u64) -> String {
    format!("{}/s", ByteSize(bytes_per_second).display().si())
}

pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// Prints a table whose columns are as wide as they need to be.
pub fn print(header: &[&str], rows: &[Vec<String>]) {
    let header: Vec<_> = header.iter().map(|&title| title.to_owned()).collect();
    let width = |column: usize| rows.iter().chain([&header]).map(|row| row[column].chars().count()).max();
    let widths: Vec<_> = (0..header.len()).filter_map(width).collect();
    let rule: Vec<_> = widths.iter().map(|&width| "-".repeat(width)).collect();
    for row in [&header, &rule].into_iter().chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!(" {cell:<width$} |"));
        println!("|{}", cells.collect::<String>());
    }
    println!();
}
