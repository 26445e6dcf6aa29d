//! The machinery behind `settings.rs`.

use toml::Value;

use super::forms::Given;
use super::settings::NodeConfig;

/// One setting: where it stands and how it is read and shown.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Its section.
    pub section: &'static str,
    /// Its name in the section.
    pub name: &'static str,
    /// What it means, line by line.
    pub doc: &'static [&'static str],
    /// Puts a value in.
    pub set: fn(&mut NodeConfig, Given<'_>) -> Result<(), String>,
    /// The value as in a file; `None` if it is not set.
    pub show: fn(&NodeConfig) -> Option<Value>,
}

impl Setting {
    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that overrides it.
    pub fn variable(&self) -> String {
        format!("QUORATE_{}_{}", self.section, self.name).to_uppercase()
    }
}

/// One section of the file.
#[derive(Clone, Copy)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// What it is about, line by line.
    pub doc: &'static [&'static str],
    /// Its settings, in the order of the file.
    pub settings: &'static [Setting],
}

/// All sections and settings.
pub fn settings_table() -> &'static [Section] {
    super::settings::SECTIONS
}

/// Makes structs, defaults and the table from one list.
macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident: $Type:ty as $Form:ty = $default:expr;
            )*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $Section {
                $( $(#[doc = $doc])* pub $field: $Type, )*
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $( $field: $default, )* }
                }
            }
        )*

        /// Everything that can be configured on one node.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct NodeConfig {
            $( $(#[doc = $section_doc])* pub $section: $Section, )*
        }

        pub(super) const SECTIONS: &[$crate::config::table::Section] = &[
            $( $crate::config::table::Section {
                name: stringify!($section),
                doc: &[$($section_doc),*],
                settings: &[
                    $( $crate::config::table::Setting {
                        section: stringify!($section),
                        name: stringify!($field),
                        doc: &[$($doc),*],
                        set: |config, given| {
                            config.$section.$field = <$Form as $crate::config::forms::Form>::read(given)?;
                            Ok(())
                        },
                        show: |config| <$Form as $crate::config::forms::Form>::show(&config.$section.$field),
                    }, )*
                ],
            }, )*
        ];
    };
}
pub(super) use settings;
