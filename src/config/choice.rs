//! Options that take one of a few words.

/// A closed set of words that an option takes, with its parser.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident, $option:literal, $expected:literal,
     { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant),+ }

        impl FromStr for $name {
            type Err = ConfigError;

            fn from_str(text: &str) -> Result<Self, ConfigError> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(ConfigError::Choice {
                        option: $option,
                        given: text.to_owned(),
                        expected: $expected,
                    }),
                }
            }
        }
    };
}
