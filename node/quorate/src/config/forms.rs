//! How values are written in files, variables and flags, and read from there.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use alloy_primitives::Address;
use toml::Value;

/// A value as somebody gave it.
#[derive(Debug, Clone, Copy)]
pub enum Given<'a> {
    /// From a file in this folder.
    Toml(&'a Value, &'a Path),
    /// From a variable or a flag.
    Text(&'a str),
}

impl<'a> Given<'a> {
    /// The text, if it is text.
    pub fn text(self) -> Option<&'a str> {
        match self {
            Given::Toml(value, _) => value.as_str(),
            Given::Text(text) => Some(text),
        }
    }
}

/// One way of writing values of one type.
pub trait Form {
    /// What is read.
    type Value;
    /// The form in words, for people who got it wrong.
    const WHAT: &'static str;

    /// Reads a value; the error says what is allowed.
    fn read(given: Given<'_>) -> Result<Self::Value, String>;

    /// The value as it stands in a file; `None` if it is not set.
    fn show(value: &Self::Value) -> Option<Value>;
}

fn wrong<F: Form>(given: Given<'_>) -> String {
    match given {
        Given::Toml(value, _) => format!("{value} is not {}", F::WHAT),
        Given::Text(text) => format!("{text:?} is not {}", F::WHAT),
    }
}

/// The text in a value that is written as text.
fn text<'a, F: Form>(given: Given<'a>) -> Result<&'a str, String> {
    given.text().ok_or_else(|| wrong::<F>(given))
}

/// True or false.
#[derive(Debug)]
pub struct Switch;

impl Form for Switch {
    type Value = bool;
    const WHAT: &'static str = "true or false";

    fn read(given: Given<'_>) -> Result<bool, String> {
        match given {
            Given::Toml(Value::Boolean(value), _) => Ok(*value),
            Given::Text("true" | "1" | "yes") => Ok(true),
            Given::Text("false" | "0" | "no" | "") => Ok(false),
            _ => Err(wrong::<Self>(given)),
        }
    }

    fn show(value: &bool) -> Option<Value> {
        Some((*value).into())
    }
}

/// A whole number, not negative.
#[derive(Debug)]
pub struct Number<T>(PhantomData<T>);

impl<T: TryFrom<u64> + TryInto<i64> + Copy> Form for Number<T> {
    type Value = T;
    const WHAT: &'static str = "a whole number that fits";

    fn read(given: Given<'_>) -> Result<T, String> {
        let number = match given {
            Given::Toml(Value::Integer(n), _) => u64::try_from(*n).ok(),
            Given::Text(text) => text.trim().replace('_', "").parse().ok(),
            Given::Toml(..) => None,
        };
        number
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(|| wrong::<Self>(given))
    }

    fn show(value: &T) -> Option<Value> {
        (*value).try_into().ok().map(Value::Integer)
    }
}

/// An amount of wei: a number, or text where TOML's 64 bits do not suffice.
#[derive(Debug)]
pub struct Wei;

impl Form for Wei {
    type Value = u128;
    const WHAT: &'static str = "an amount of wei: a whole number, or its digits as text";

    fn read(given: Given<'_>) -> Result<u128, String> {
        let number = match given {
            Given::Toml(Value::Integer(n), _) => u128::try_from(*n).ok(),
            _ => given
                .text()
                .and_then(|text| text.trim().replace('_', "").parse().ok()),
        };
        number.ok_or_else(|| wrong::<Self>(given))
    }

    fn show(value: &u128) -> Option<Value> {
        Some(match i64::try_from(*value) {
            Ok(n) => Value::Integer(n),
            Err(_) => Value::String(value.to_string()),
        })
    }
}

/// A length of time with its unit.
#[derive(Debug)]
pub struct Span;

/// Units of time, from large to small, in microseconds.
const TIME_UNITS: [(&str, u64); 5] = [
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

impl Form for Span {
    type Value = Duration;
    const WHAT: &'static str = "a time with its unit: \"250ms\", \"5s\", \"3m\", \"2h\"";

    fn read(given: Given<'_>) -> Result<Duration, String> {
        let written = text::<Self>(given)?;
        let micros = scaled(written, &TIME_UNITS).ok_or_else(|| wrong::<Self>(given))?;
        Ok(Duration::from_micros(micros))
    }

    fn show(value: &Duration) -> Option<Value> {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        if micros == 0 {
            return Some("0ms".into());
        }
        Some(unscaled(micros, &TIME_UNITS, "us").into())
    }
}

/// A duration from text, for flags of other commands.
///
/// # Errors
/// What is allowed.
pub fn parse_duration(written: &str) -> Result<Duration, String> {
    Span::read(Given::Text(written))
}

/// A number of bytes, with a unit or without.
#[derive(Debug)]
pub struct Size<T>(PhantomData<T>);

/// Units of size, from large to small.
const SIZE_UNITS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl<T: TryFrom<u64> + TryInto<u64> + Copy> Form for Size<T> {
    type Value = T;
    const WHAT: &'static str = "a size: \"64MiB\", \"512KiB\", \"1GiB\" or a number of bytes";

    fn read(given: Given<'_>) -> Result<T, String> {
        let bytes = match given {
            Given::Toml(Value::Integer(n), _) => u64::try_from(*n).ok(),
            _ => given.text().and_then(|text| {
                text.trim()
                    .parse()
                    .ok()
                    .or_else(|| scaled(text, &SIZE_UNITS))
            }),
        };
        bytes
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(|| wrong::<Self>(given))
    }

    fn show(value: &T) -> Option<Value> {
        let bytes: u64 = (*value).try_into().ok()?;
        Some(unscaled(bytes, &SIZE_UNITS, "B").into())
    }
}

/// Reads "12ms": digits and a unit.
fn scaled(written: &str, units: &[(&str, u64)]) -> Option<u64> {
    let written = written.trim();
    let digits_end = written.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let (digits, unit) = written.split_at(digits_end);
    let number: u64 = digits.replace('_', "").parse().ok()?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.checked_mul(*factor)
}

/// Writes in the largest unit that leaves no rest.
fn unscaled(number: u64, units: &[(&str, u64)], smallest: &str) -> String {
    for (name, factor) in units {
        if number >= *factor && number.is_multiple_of(*factor) {
            return format!("{}{name}", number / factor);
        }
    }
    format!("{number}{smallest}")
}

/// Text as it stands.
#[derive(Debug)]
pub struct Words;

impl Form for Words {
    type Value = String;
    const WHAT: &'static str = "text";

    fn read(given: Given<'_>) -> Result<String, String> {
        text::<Self>(given).map(str::to_owned)
    }

    fn show(value: &String) -> Option<Value> {
        Some(value.as_str().into())
    }
}

/// Where to listen.
#[derive(Debug)]
pub struct Listen;

impl Form for Listen {
    type Value = SocketAddr;
    const WHAT: &'static str = "an address and port such as \"127.0.0.1:8545\" or \"[::]:8545\"";

    fn read(given: Given<'_>) -> Result<SocketAddr, String> {
        text::<Self>(given)?
            .trim()
            .parse()
            .map_err(|_| wrong::<Self>(given))
    }

    fn show(value: &SocketAddr) -> Option<Value> {
        Some(value.to_string().into())
    }
}

/// A path; in a file it begins at the file's folder, elsewhere at the current folder.
#[derive(Debug)]
pub struct Location;

impl Form for Location {
    type Value = PathBuf;
    const WHAT: &'static str = "a path";

    fn read(given: Given<'_>) -> Result<PathBuf, String> {
        let path = text::<Self>(given)?;
        if path.is_empty() {
            return Err("the path is empty".into());
        }
        Ok(match given {
            Given::Toml(_, folder) => folder.join(path),
            Given::Text(_) => PathBuf::from(path),
        })
    }

    fn show(value: &PathBuf) -> Option<Value> {
        Some(value.display().to_string().into())
    }
}

/// Something that may be left out.
#[derive(Debug)]
pub struct Maybe<F>(PhantomData<F>);

impl<F: Form> Form for Maybe<F> {
    type Value = Option<F::Value>;
    const WHAT: &'static str = F::WHAT;

    fn read(given: Given<'_>) -> Result<Option<F::Value>, String> {
        F::read(given).map(Some)
    }

    fn show(value: &Option<F::Value>) -> Option<Value> {
        value.as_ref().and_then(F::show)
    }
}

/// A list of texts; in variables and flags separated by commas.
#[derive(Debug)]
pub struct WordList;

impl Form for WordList {
    type Value = Vec<String>;
    const WHAT: &'static str = "a list of texts";

    fn read(given: Given<'_>) -> Result<Vec<String>, String> {
        list::<Self, String>(given)
    }

    fn show(value: &Vec<String>) -> Option<Value> {
        Some(Value::Array(
            value.iter().map(|v| v.as_str().into()).collect(),
        ))
    }
}

/// A list of account addresses.
#[derive(Debug)]
pub struct AddressList;

impl Form for AddressList {
    type Value = Vec<Address>;
    const WHAT: &'static str = "a list of addresses, each 0x and 40 hexadecimal digits";

    fn read(given: Given<'_>) -> Result<Vec<Address>, String> {
        list::<Self, Address>(given)
    }

    fn show(value: &Vec<Address>) -> Option<Value> {
        Some(Value::Array(
            value.iter().map(|v| v.to_string().into()).collect(),
        ))
    }
}

fn list<F: Form, T: FromStr>(given: Given<'_>) -> Result<Vec<T>, String> {
    let texts: Option<Vec<&str>> = match given {
        Given::Toml(Value::Array(values), _) => values.iter().map(Value::as_str).collect(),
        Given::Text(text) => Some(
            text.split(',')
                .map(str::trim)
                .filter(|t| !t.is_empty())
                .collect(),
        ),
        Given::Toml(..) => None,
    };
    let texts = texts.ok_or_else(|| wrong::<F>(given))?;
    texts
        .into_iter()
        .map(|t| {
            t.parse()
                .map_err(|_| format!("{t:?} does not belong in {}", F::WHAT))
        })
        .collect()
}

/// Raft id → where that member is reached.
#[derive(Debug)]
pub struct MemberAddresses;

impl Form for MemberAddresses {
    type Value = BTreeMap<u64, String>;
    const WHAT: &'static str = "a table of raft ids and addresses: { 2 = \"10.0.0.2:30303\" } (as text: 2=10.0.0.2:30303,3=…)";

    fn read(given: Given<'_>) -> Result<BTreeMap<u64, String>, String> {
        let pairs: Option<Vec<(&str, &str)>> = match given {
            Given::Toml(Value::Table(table), _) => table
                .iter()
                .map(|(id, v)| Some((id.as_str(), v.as_str()?)))
                .collect(),
            Given::Text(text) => text
                .split(',')
                .map(str::trim)
                .filter(|t| !t.is_empty())
                .map(|t| t.split_once('='))
                .collect(),
            Given::Toml(..) => None,
        };
        let pairs = pairs.ok_or_else(|| wrong::<Self>(given))?;
        pairs
            .into_iter()
            .map(|(id, address)| {
                let id = id
                    .trim()
                    .parse()
                    .map_err(|_| format!("{id:?} is no raft id"))?;
                Ok((id, address.trim().to_owned()))
            })
            .collect()
    }

    fn show(value: &BTreeMap<u64, String>) -> Option<Value> {
        Some(Value::Table(
            value
                .iter()
                .map(|(id, a)| (id.to_string(), a.as_str().into()))
                .collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit_and_shown_in_the_largest() {
        let check = |written: &str, expected: Option<(Duration, &str)>| {
            let read = Span::read(Given::Text(written)).ok();
            assert_eq!(read, expected.map(|(d, _)| d), "{written}");
            if let (Some(read), Some((_, shown))) = (read, expected) {
                assert_eq!(Span::show(&read), Some(shown.into()));
            }
        };
        check("0ms", Some((Duration::ZERO, "0ms")));
        check("250ms", Some((Duration::from_millis(250), "250ms")));
        check("1000 ms", Some((Duration::from_secs(1), "1s")));
        check("90s", Some((Duration::from_secs(90), "90s")));
        check("3h", Some((Duration::from_secs(10_800), "3h")));
        check("50us", Some((Duration::from_micros(50), "50us")));
        check("5", None);
        check("5 parsecs", None);
        check("-5s", None);
        check("99999999999999999999s", None);
    }

    #[test]
    fn sizes_are_read_with_or_without_unit() {
        let read = |written: &str| Size::<u64>::read(Given::Text(written)).ok();
        assert_eq!(read("64MiB"), Some(64 << 20));
        assert_eq!(read("4096"), Some(4096));
        assert_eq!(read("1 GiB"), Some(1 << 30));
        assert_eq!(read("1MB"), None);
        assert_eq!(Size::<u32>::read(Given::Text("8GiB")).ok(), None);
        assert_eq!(Size::<u64>::show(&(3 << 20)), Some("3MiB".into()));
        assert_eq!(Size::<u64>::show(&1500), Some("1500B".into()));
    }

    #[test]
    fn lists_and_tables_can_be_given_as_text() {
        assert_eq!(
            WordList::read(Given::Text("a, b,")),
            Ok(vec!["a".to_owned(), "b".to_owned()])
        );
        let addresses = MemberAddresses::read(Given::Text("2=b:1,3=c:2")).unwrap();
        assert_eq!(
            addresses,
            BTreeMap::from([(2, "b:1".to_owned()), (3, "c:2".to_owned())])
        );
        assert!(MemberAddresses::read(Given::Text("b:1")).is_err());
        assert!(
            AddressList::read(Given::Text("0x12"))
                .unwrap_err()
                .contains("0x12")
        );
    }

    #[test]
    fn paths_in_a_file_begin_at_its_folder() {
        let value = Value::from("data");
        assert_eq!(
            Location::read(Given::Toml(&value, Path::new("/etc/q"))),
            Ok("/etc/q/data".into())
        );
        assert_eq!(Location::read(Given::Text("data")), Ok("data".into()));
        let absolute = Value::from("/var/data");
        assert_eq!(
            Location::read(Given::Toml(&absolute, Path::new("/etc/q"))),
            Ok("/var/data".into())
        );
    }
}
