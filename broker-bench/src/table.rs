//! How a row is printed: as Markdown that reads as a table in a terminal too.

use crate::row::Measured;

/// The table of a row. Ratios are the first contender's figure to the other's.
pub(crate) fn table(broker: &str, row: &str, measured: &[Measured]) -> String {
    let mut table = format!("\n### {broker}: {row}\n\n");
    let latency = measured.iter().any(|measured| measured.latency_micros.is_some());
    let mut head = vec![
        "",
        "messages/s",
        "min–max",
        "ratio",
        "CPU µs",
        "min–max",
        "ratio",
        "peak MiB",
        "allocations",
    ];
    if latency {
        head.push("p50 / p99 / p99.9 ms");
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let Some(first) = measured.first() else { return table };
    for it in measured {
        let mut cells = vec![
            it.contender.clone(),
            thousands(it.rate_median),
            format!("{}–{}", thousands(it.rate_min), thousands(it.rate_max)),
            format!("{:.2}", first.rate_median / it.rate_median),
            format!("{:.2}", it.cpu_micros_median),
            format!("{:.2}–{:.2}", it.cpu_micros_min, it.cpu_micros_max),
            format!("{:.2}", first.cpu_micros_median / it.cpu_micros_median),
            format!("{:.0}", it.peak_mib),
            format!("{:.1}", it.allocations),
        ];
        if latency {
            let each = it.latency_micros.map(|micros| {
                micros.map(|micros| format!("{:.2}", micros as f64 / 1_000.0)).join(" / ")
            });
            cells.push(each.unwrap_or_default());
        }
        rows.push(cells);
    }
    let columns = rows[0].len();
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0).max(2);
    let widths: Vec<_> = (0..columns).map(width).collect();
    for (number, row) in rows.iter().enumerate() {
        for (n, cell) in row.iter().enumerate() {
            let width = widths[n];
            match n {
                0 => table += &format!("| {cell:width$} "),
                _ => table += &format!("| {cell:>width$} "),
            }
        }
        table += "|\n";
        if number == 0 {
            for (n, width) in widths.iter().enumerate() {
                let line = "-".repeat(*width);
                table += &if n == 0 { format!("|-{line}-") } else { format!("|-{line}:") };
            }
            table += "|\n";
        }
    }
    table
}

/// With separators: 1,234,567.
fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut separated = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            separated.push(',');
        }
        separated.push(digit);
    }
    separated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_have_separators() {
        let shown = [0.0, 999.4, 1_000.0, 1_234_567.0].map(thousands);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }
}
