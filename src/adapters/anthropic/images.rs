//! Which images of a prompt Anthropic takes.
//! Source: docs.anthropic.com/en/docs/build-with-claude/vision, 2026-11: at most 100 in a request, 5
//! MB each, 20 MB or so in all, 8000 pixels an edge and 2000 where there are more than 20.

use crate::adapters::history::data_url;

/// Most images in one request.
const MAX_IMAGES: usize = 100;
/// Most base64 bytes of one image.
const MAX_BYTES: usize = 5 << 20;
/// Most base64 bytes of all images; the whole request may have 32 MB.
const MAX_TOTAL: usize = 20 << 20;
/// Longest edge of an image among at most [`FEW`], and among more.
const MAX_EDGE: u32 = 8000;
const MAX_EDGE_OF_MANY: u32 = 2000;
const FEW: usize = 20;

/// Which of the images, given in their order, may be sent. Of too many, the oldest are left out.
pub(super) fn admitted(urls: &[&str]) -> Vec<bool> {
    let many = urls.len() > FEW;
    let (mut left, mut bytes) = (MAX_IMAGES, MAX_TOTAL);
    let mut admitted: Vec<bool> = urls
        .iter()
        .rev()
        .map(|url| {
            let size = data_url(url).map_or(0, |(_, data)| data.len());
            let fits = left > 0 && size <= MAX_BYTES && size <= bytes && edge_fits(url, many);
            if fits {
                left -= 1;
                bytes -= size;
            }
            fits
        })
        .collect();
    admitted.reverse();
    admitted
}

/// An image whose size cannot be read is left to Anthropic's judgement.
fn edge_fits(url: &str, many: bool) -> bool {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let Some((_, data)) = data_url(url) else {
        return true;
    };
    // The size stands at the start of every format but for JPEGs with a long preamble.
    let head = &data.as_bytes()[..data.len().min(256 << 10) / 4 * 4];
    let Some(size) =
        BASE64_STANDARD.decode(head).ok().and_then(|bytes| imagesize::blob_size(&bytes).ok())
    else {
        return true;
    };
    let limit = if many { MAX_EDGE_OF_MANY } else { MAX_EDGE };
    size.width.max(size.height) <= limit as usize
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    use super::*;

    fn png(width: u32, padding: usize) -> String {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        bytes.extend_from_slice(&width.to_be_bytes());
        bytes.extend_from_slice(&10u32.to_be_bytes());
        bytes.extend(std::iter::repeat_n(0, padding));
        format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes))
    }

    fn count(urls: &[String]) -> (usize, Vec<bool>) {
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let admitted = admitted(&urls);
        (admitted.iter().filter(|admitted| **admitted).count(), admitted)
    }

    #[test]
    fn the_newest_hundred_go() {
        let (count, which) = count(&vec![png(10, 0); 103]);
        assert_eq!(count, 100);
        assert_eq!(which[..4], [false, false, false, true]);
    }

    #[test]
    fn size_and_edge_are_bounded() {
        assert_eq!(count(&[png(8000, 0), png(8001, 0), png(10, 4 << 20)]).1, [true, false, false]);
        let many: Vec<String> = (0..21).map(|n| png(if n == 0 { 2001 } else { 2000 }, 0)).collect();
        assert_eq!(count(&many).0, 20);
        let heavy = vec![png(10, 3 << 20); 6];
        let (fit, which) = count(&heavy);
        assert_eq!((fit, which[0]), (4, false));
        assert_eq!(count(&["https://x/y.png".into(), "data:image/png;base64,!".into()]).0, 2);
    }
}
