//! One description of each setting, from which all else follows.
//!
//! A section is declared with [`settings!`]: each line gives the field, its type, its default and its [`Form`], under the
//! comment that says what it is. From that come the struct, its `Default`, what the reader accepts, the text of
//! `print-config`, and what a reload does with it; none of them can say anything else than the others.
//!
//! A setting that is read at the start only has `, fixed` at the end of its line: a reload keeps the old value, and says so.

use secrecy::SecretString;

use super::form::Form;

/// A section whose settings a [`Visitor`] can go over, in the order in which they are declared.
pub(crate) trait Settings {
    /// Shows each setting to the visitor, which may look at it or change it.
    fn visit<V: Visitor>(&mut self, visitor: &mut V);

    /// Takes over from `running` what cannot change while hawking runs.
    fn keep_fixed(&mut self, running: &Self);
}

/// What goes over settings: the reader, and the writer.
pub(crate) trait Visitor {
    /// A setting: its key, its comment by lines, and its place.
    fn setting<F: Form>(&mut self, key: &'static str, doc: &[&str], value: &mut F::Value, form: &F);

    /// The same for one that is read at the start only.
    fn fixed<F: Form>(&mut self, key: &'static str, doc: &[&str], value: &mut F::Value, form: &F) {
        self.setting(key, doc, value, form);
    }

    /// A secret that may be left out. It can also be given as `KEY_file` or `KEY_env`.
    fn secret(&mut self, key: &'static str, doc: &[&str], value: &mut Option<SecretString>);

    /// A section within the section.
    fn section<S: Settings>(&mut self, key: &'static str, doc: &[&str], value: &mut S);
}

/// Declares a section; see the module's comment.
macro_rules! settings {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident: $type:ty = $default:expr, as $form:expr $(, $fixed:ident)?;
            )*
        }
        $(sections {
            $(
                $(#[doc = $section_doc:literal])*
                $section:ident: $section_type:ty;
            )*
        })?
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                pub $field: $type,
            )*
            $($(
                $(#[doc = $section_doc])*
                pub $section: $section_type,
            )*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    $($($section: Default::default(),)*)?
                }
            }
        }

        impl $crate::config::settings::Settings for $name {
            fn visit<V: $crate::config::settings::Visitor>(&mut self, visitor: &mut V) {
                $($crate::config::settings::visit!(visitor, $field, [$($doc),*], self, $form $(, $fixed)?);)*
                $($(visitor.section(stringify!($section), &[$($section_doc),*], &mut self.$section);)*)?
            }

            fn keep_fixed(&mut self, running: &Self) {
                $($($crate::config::settings::$fixed!(self, running, $field);)?)*
                $($($crate::config::settings::Settings::keep_fixed(&mut self.$section, &running.$section);)*)?
                let _ = running;
            }
        }
    };
}

/// Shows a setting to a visitor.
macro_rules! visit {
    ($visitor:ident, $field:ident, $doc:tt, $this:ident, $form:expr) => {
        $visitor.setting(stringify!($field), &$doc, &mut $this.$field, &$form)
    };
    ($visitor:ident, $field:ident, $doc:tt, $this:ident, $form:expr, fixed) => {
        $visitor.fixed(stringify!($field), &$doc, &mut $this.$field, &$form)
    };
}

/// Takes a setting over from the running configuration.
macro_rules! fixed {
    ($this:ident, $running:ident, $field:ident) => {
        $this.$field.clone_from(&$running.$field)
    };
}

pub(crate) use {fixed, settings, visit};
