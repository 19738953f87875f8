//! Serial numbers of certificates.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A certificate's serial number, without leading zeros. Shown as Consul shows it: `08:ab:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

/// RFC 5280 4.1.2.2.
const SERIAL_BYTES_MAX: usize = 20;

impl Serial {
    /// From the content of the DER INTEGER.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        Serial(bytes[zeros..].to_vec())
    }

    /// A fresh random one: 128 bits, of which the two highest are fixed so that the length is too.
    pub(crate) fn random() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        let random = if faults::has(faults::Bug::SerialTwice) { 1 } else { bytes.len() };
        aws_lc_rs::rand::fill(&mut bytes[..random]).map_err(Error::crypto)?;
        bytes[0] = (bytes[0] & 0x3f) | 0x40;
        Ok(Serial(bytes.to_vec()))
    }

    /// Big-endian, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The low 64 bits, as Consul's `CARoot.SerialNumber` has them.
    pub fn low_u64(&self) -> u64 {
        self.0.iter().fold(0, |low, byte| (low << 8) | u64::from(*byte))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex_with_colons(&self.0))
    }
}

impl FromStr for Serial {
    type Err = Error;

    /// Hexadecimal, with or without colons.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::malformed("serial number", "it must be up to 20 bytes in hexadecimal, as in 08:ab:3f");
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
        if digits.is_empty() || digits.len() % 2 == 1 || digits.len() > 2 * SERIAL_BYTES_MAX {
            return Err(bad());
        }
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|v| u8::try_from(v).ok()).ok_or_else(bad);
        let bytes = digits
            .chunks(2)
            .map(|pair| Ok(value(pair[0])? << 4 | value(pair[1])?))
            .collect::<Result<Vec<u8>, Error>>()?;
        Ok(Serial::from_bytes(&bytes))
    }
}

/// `ab:cd:…`, as Consul prints fingerprints, key ids and serial numbers.
pub(crate) fn hex_with_colons(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree() {
        for (text, shown, low) in [
            ("08:ab", "08:ab", 0x08ab),
            ("0008AB", "08:ab", 0x08ab),
            ("01:02030405060708:09", "01:02:03:04:05:06:07:08:09", 0x0203_0405_0607_0809),
        ] {
            let serial: Serial = text.parse().expect(text);
            assert_eq!((serial.to_string().as_str(), serial.low_u64()), (shown, low));
        }
        for bad in ["", ":", "a", "zz", "+1", "0x01", &"00".repeat(21)] {
            assert!(bad.parse::<Serial>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_serials_are_positive_unique_and_of_one_length() {
        let serials: std::collections::BTreeSet<Serial> =
            (0..1000).map(|_| Serial::random().expect("randomness")).collect();
        assert_eq!(serials.len(), 1000);
        assert!(serials.iter().all(|s| s.as_bytes().len() == 16 && s.as_bytes()[0] < 0x80));
    }
}
