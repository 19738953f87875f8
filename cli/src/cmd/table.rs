//! Columns of text, two spaces apart, as Consul's CLI prints them.

/// Lays out rows under a heading. Every row has as many cells as the heading.
pub(super) fn render(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_string() + "\n"
    };
    let mut text = line(heading.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["s1".into(), "127.0.0.1:8301".into()], vec!["server-2".into(), "x".into()]];
        assert_eq!(render(&["Node", "Address"], &rows), "Node      Address\ns1        127.0.0.1:8301\nserver-2  x\n");
        assert_eq!(render(&["Node"], &[]), "Node\n");
    }
}
