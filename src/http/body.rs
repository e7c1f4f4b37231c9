//! Request bodies: read with a bound on size and time, then decompressed with a bound on size.

use std::{
    io::{self, Read},
    time::Duration,
};

use actix_rt::time::{Instant, timeout};
use actix_web::{HttpRequest, http::header, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use crate::error::BodyError;

/// How long a body may take in all.
const TOTAL: Duration = Duration::from_secs(300);
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(10);
/// How many bytes must have come, on average, for every second after the first ten.
const MIN_RATE: u64 = 1024;
/// Codings of one body; more is an attack.
const MAX_CODINGS: usize = 3;

/// A compression that bodies may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Zstd,
    Gzip,
    Deflate,
    Brotli,
}

/// Reads a body whole.
///
/// # Errors
///
/// When it is too large, too slow, broken, or compressed in an unknown way.
pub async fn read(
    request: &HttpRequest,
    payload: &mut web::Payload,
    limit: usize,
) -> Result<Bytes, BodyError> {
    let mut encoding = String::new();
    for value in request.headers().get_all(header::CONTENT_ENCODING) {
        encoding.push_str(value.to_str().map_err(|_| BodyError::UnknownEncoding)?);
        encoding.push(',');
    }
    let plain = parse_codings(&encoding)?.is_empty();
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(BodyError::TooLarge(limit));
    }
    let body = receive(payload, limit, declared).await?;
    if plain {
        return Ok(body);
    }
    // Seconds of CPU for the largest: not on a thread that serves others.
    let decoded = web::block(move || decompress(body, &encoding, limit)).await;
    decoded.unwrap_or(Err(BodyError::Corrupt))
}

/// Undoes the codings of a `Content-Encoding`, the last one first.
///
/// # Errors
///
/// When there are too many or unknown ones, the body is broken, or it has more than `limit` bytes.
pub fn decompress(body: Bytes, encoding: &str, limit: usize) -> Result<Bytes, BodyError> {
    let codings = parse_codings(encoding)?;
    codings.iter().rev().try_fold(body, |body, coding| decode(&body, *coding, limit))
}

async fn receive(
    payload: &mut web::Payload,
    limit: usize,
    declared: Option<usize>,
) -> Result<Bytes, BodyError> {
    let started = Instant::now();
    // What was declared may be a lie: room is made for what comes.
    let mut body = BytesMut::with_capacity(declared.unwrap_or_default().min(64 << 10));
    while let Some(chunk) =
        timeout(SILENCE, payload.next()).await.map_err(|_| BodyError::TooSlow)?
    {
        let chunk = chunk.map_err(|_| BodyError::Incomplete)?;
        if body.len() + chunk.len() > limit {
            return Err(BodyError::TooLarge(limit));
        }
        body.extend_from_slice(&chunk);
        let elapsed = started.elapsed();
        let expected = elapsed.saturating_sub(SILENCE).as_secs() * MIN_RATE;
        if elapsed > TOTAL || (body.len() as u64) < expected {
            return Err(BodyError::TooSlow);
        }
    }
    Ok(body.freeze())
}

/// The codings in a `Content-Encoding`, in the order in which they were applied.
fn parse_codings(value: &str) -> Result<Vec<Coding>, BodyError> {
    let coding = |name: &str| {
        Ok(Some(match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => return Ok(None),
            "zstd" => Coding::Zstd,
            "gzip" | "x-gzip" => Coding::Gzip,
            "deflate" => Coding::Deflate,
            "br" => Coding::Brotli,
            _ => return Err(BodyError::UnknownEncoding),
        }))
    };
    let codings: Vec<Coding> =
        value.split(',').filter_map(|name| coding(name).transpose()).collect::<Result<_, _>>()?;
    if codings.len() > MAX_CODINGS { Err(BodyError::UnknownEncoding) } else { Ok(codings) }
}

fn decode(body: &[u8], coding: Coding, limit: usize) -> Result<Bytes, BodyError> {
    match coding {
        Coding::Zstd => {
            let reader = zstd::stream::read::Decoder::new(body).map_err(|_| BodyError::Corrupt)?;
            take(reader, limit)
        }
        Coding::Gzip => take(flate2::read::MultiGzDecoder::new(body), limit),
        // The standard says zlib; some clients send the bare stream.
        Coding::Deflate => match take(flate2::read::ZlibDecoder::new(body), limit) {
            Err(BodyError::Corrupt) => take(flate2::read::DeflateDecoder::new(body), limit),
            result => result,
        },
        Coding::Brotli => take(brotli_decompressor::Decompressor::new(body, 4096), limit),
    }
}

/// Reads at most `limit` bytes; the decoder never gets to make more than a buffer beyond that.
fn take(reader: impl Read, limit: usize) -> Result<Bytes, BodyError> {
    let mut out = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let read: io::Result<usize> = reader.take(bound).read_to_end(&mut out);
    read.map_err(|_| BodyError::Corrupt)?;
    if out.len() > limit { Err(BodyError::TooLarge(limit)) } else { Ok(out.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    const ALL: [Coding; 4] = [Coding::Zstd, Coding::Gzip, Coding::Deflate, Coding::Brotli];

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(data: &[u8]) -> Vec<u8> {
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_coding_is_undone() {
        let text = b"{\"model\":\"m\"}".repeat(50);
        // Made with `brotli -c`, which has no encoder here: the text "hello".
        let brotli = [0x0b, 0x02, 0x80, b'h', b'e', b'l', b'l', b'o', 0x03];
        assert_eq!(decode(&brotli, Coding::Brotli, 100).unwrap(), &b"hello"[..]);
        for (encoded, coding) in [
            (zstd::encode_all(&text[..], 3).unwrap(), Coding::Zstd),
            (gzip(&text), Coding::Gzip),
            (zlib(&text), Coding::Deflate),
            (deflate(&text), Coding::Deflate),
        ] {
            assert_eq!(decode(&encoded, coding, 10_000).unwrap(), text, "{coding:?}");
        }
        let twice = gzip(&zstd::encode_all(&text[..], 3).unwrap());
        let undone = decompress(twice.into(), "zstd, gzip", 10_000).unwrap();
        assert_eq!(undone, text);
        assert_eq!(parse_codings("zstd, X-GZIP,identity").unwrap(), [Coding::Zstd, Coding::Gzip]);
        assert_eq!(parse_codings("lzma"), Err(BodyError::UnknownEncoding));
    }

    #[test]
    fn t23_a_bomb_stops_at_the_limit() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100_000);
        assert_eq!(decode(&bomb, Coding::Gzip, 1 << 20), Err(BodyError::TooLarge(1 << 20)));
        let bomb = zstd::encode_all(&vec![0; 64 << 20][..], 1).unwrap();
        assert_eq!(decode(&bomb, Coding::Zstd, 1 << 20), Err(BodyError::TooLarge(1 << 20)));
    }

    #[test]
    fn a_cut_body_is_corrupt() {
        let text = b"some text that is long enough to be cut in the middle".repeat(9);
        for (encoded, coding) in
            [(zstd::encode_all(&text[..], 3).unwrap(), Coding::Zstd), (gzip(&text), Coding::Gzip)]
        {
            let cut = &encoded[..encoded.len() / 2];
            assert_eq!(decode(cut, coding, 10_000), Err(BodyError::Corrupt), "{coding:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_an_error_or_within_the_limit(bytes in proptest::collection::vec(any::<u8>(), 0..300), which in 0usize..4) {
            if let Ok(body) = decode(&bytes, ALL[which], 1000) {
                prop_assert!(body.len() <= 1000);
            }
        }
    }
}
