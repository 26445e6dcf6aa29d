//! Positional parameters, as leniently as geth takes them: trailing ones may be missing or null.

use jsonrpsee::types::Params;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::RpcError;

/// The parameters of one request, taken from the front.
#[derive(Debug)]
pub(crate) struct Args {
    values: std::vec::IntoIter<Box<RawValue>>,
}

impl Args {
    pub(crate) fn of(params: &Params<'_>) -> Result<Self, RpcError> {
        let values: Vec<Box<RawValue>> = match params.as_str().map(str::trim) {
            None | Some("" | "null") => Vec::new(),
            Some(text) => serde_json::from_str(text).map_err(|_| {
                RpcError::argument("params", "must be an array of positional parameters")
            })?,
        };
        Ok(Self {
            values: values.into_iter(),
        })
    }

    /// The next parameter, which must be there.
    pub(crate) fn required<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
    ) -> Result<T, RpcError> {
        self.optional(name)?
            .ok_or_else(|| RpcError::argument(name, "missing"))
    }

    /// The next parameter; `None` if it is missing or null.
    pub(crate) fn optional<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, RpcError> {
        match self.values.next() {
            None => Ok(None),
            Some(value) if value.get() == "null" => Ok(None),
            Some(value) => serde_json::from_str(value.get())
                .map(Some)
                .map_err(|e| RpcError::argument(name, e)),
        }
    }

    /// Refuses what nobody asked for: most likely the caller means another method.
    pub(crate) fn end(mut self) -> Result<(), RpcError> {
        match self.values.find(|value| value.get() != "null") {
            None => Ok(()),
            Some(_) => Err(RpcError::argument("params", "too many parameters")),
        }
    }
}

/// Reads a parameter that is looked at more than once.
pub(crate) fn parse<T: DeserializeOwned>(
    name: &'static str,
    value: &RawValue,
) -> Result<T, RpcError> {
    serde_json::from_str(value.get()).map_err(|e| RpcError::argument(name, e))
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, U64};

    use super::*;

    fn args(text: &str) -> Result<Args, RpcError> {
        Args::of(&Params::new(Some(text)))
    }

    #[test]
    fn missing_and_null_parameters_are_the_same() {
        for text in ["[\"0x5\"]", "[\"0x5\", null]", "[\"0x5\", null, null]"] {
            let mut args = args(text).unwrap();
            assert_eq!(args.required::<U64>("block").unwrap(), U64::from(5));
            assert_eq!(args.optional::<U64>("other").unwrap(), None);
            args.end().unwrap();
        }
    }

    #[test]
    fn faults_name_the_parameter() {
        let mut few = args("[]").unwrap();
        assert_eq!(
            few.required::<U64>("block").unwrap_err(),
            RpcError::argument("block", "missing")
        );
        let mut wrong = args("[\"0xzz\"]").unwrap();
        let error = wrong
            .required::<Address>("address")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("invalid argument address:"), "{error}");
        assert!(args("[1]").unwrap().end().is_err());
        assert!(args("{\"a\": 1}").is_err());
        assert!(args("null").unwrap().end().is_ok());
    }
}
