//! JSON that is read leniently or changed in one place and otherwise kept byte for byte.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

/// A string that borrows where it can; any other JSON type reads as nothing.
///
/// serde's own `Option<Cow<str>>` never borrows, and fails on a number where text was expected;
/// histories that clients replay must not fail on one odd field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Str<'a>(pub Option<Cow<'a, str>>);

impl Str<'_> {
    /// The text, or nothing.
    pub fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The text, or `""`.
    pub fn or_empty(&self) -> &str {
        self.get().unwrap_or_default()
    }

    /// The text unless it is empty.
    pub fn non_empty(&self) -> Option<&str> {
        self.get().filter(|text| !text.is_empty())
    }
}

/// A count; anything but a whole number from 0 reads as nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count(pub Option<u64>);

impl Count {
    /// The number, or 0.
    pub fn or_zero(self) -> u64 {
        self.0.unwrap_or_default()
    }
}

/// An object of type `T`; any other JSON type reads as nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obj<T>(pub Option<T>);

impl<T> Default for Obj<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// Text or a list; any other JSON type reads as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TextOrList<'a, T> {
    /// Absent, null, or of another type.
    #[default]
    Nothing,
    /// A string.
    Text(Cow<'a, str>),
    /// An array.
    List(Vec<T>),
}

impl<T> TextOrList<'_, T> {
    /// The elements; none if it is no list.
    pub fn list(&self) -> &[T] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }
}

/// Implements the visitor methods of JSON types that a lenient type reads as nothing.
macro_rules! nothing {
    ($value:expr; $($method:ident($type:ty)),*) => {
        $(fn $method<E: de::Error>(self, _: $type) -> Result<Self::Value, E> { Ok($value) })*
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> { Ok($value) }
        fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> { Ok($value) }
    };
}

fn skip_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<(), A::Error> {
    while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

impl<'de: 'a, 'a> Deserialize<'de> for Str<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Str<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Str<'de>, E> {
                Ok(Str(Some(text.into())))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Str<'de>, E> {
                Ok(Str(Some(text.to_owned().into())))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Str<'de>, E> {
                Ok(Str(Some(text.into())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Str<'de>, A::Error> {
                skip_list(list).map(|()| Str(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Str<'de>, A::Error> {
                skip_object(object).map(|()| Str(None))
            }
            nothing!(Str(None); visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));
        }
        deserializer.deserialize_any(Text)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl<'de> Visitor<'de> for Number {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
                Ok(Count(Some(number)))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Count, E> {
                // Up to 2^53 a float holds every whole number, so the cast is exact.
                let whole = number >= 0.0 && number.fract() == 0.0 && number < 9.0e15;
                Ok(Count(whole.then_some(number as u64)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Count, A::Error> {
                skip_list(list).map(|()| Count(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Count, A::Error> {
                skip_object(object).map(|()| Count(None))
            }
            nothing!(Count(None); visit_bool(bool), visit_i64(i64), visit_str(&str));
        }
        deserializer.deserialize_any(Number)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Obj<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Obj<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Obj<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(object)).map(|value| Obj(Some(value)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Obj<T>, A::Error> {
                skip_list(list).map(|()| Obj(None))
            }
            nothing!(Obj(None); visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
        }
        deserializer.deserialize_any(Object(PhantomData))
    }
}

impl<'de: 'a, 'a, T: Deserialize<'de>> Deserialize<'de> for TextOrList<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOrList<'de, T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(TextOrList::Text(text.into()))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOrList::Text(text.to_owned().into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(TextOrList::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
                skip_object(object).map(|()| TextOrList::Nothing)
            }
            nothing!(TextOrList::Nothing; visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

/// Text that was checked to be an object, as JSON. Should it be none after all, `{}`.
pub fn raw_object(text: &str) -> &RawValue {
    const EMPTY: &str = "{}";
    let raw = serde_json::from_str::<&RawValue>(text).ok();
    raw.filter(|raw| raw.get().starts_with('{'))
        .or_else(|| serde_json::from_str(EMPTY).ok())
        .unwrap_or(RawValue::NULL)
}

/// The keys and raw values of a JSON object, in order.
#[derive(Debug)]
pub struct RawObject<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for RawObject<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawObject<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = object.next_key::<Str<'de>>()? {
                    entries.push((key.0.unwrap_or_default(), object.next_value()?));
                }
                Ok(RawObject(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'a> RawObject<'a> {
    /// The raw value of a key.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }
}

/// What to do with one top-level key.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Leave it out.
    Remove,
    /// Write this JSON text instead, or at the end if the key is missing.
    Set(String),
}

/// Changes top-level keys of a JSON object and copies everything else byte for byte, so that an
/// upstream's prompt cache sees what the caller wrote.
///
/// # Errors
///
/// If `json` is not an object.
pub fn edit_object(json: &[u8], edits: &[(&str, Edit)]) -> Result<Vec<u8>, serde_json::Error> {
    let object: RawObject<'_> = serde_json::from_slice(json)?;
    let mut out = Vec::with_capacity(json.len() + 64);
    let mut put = |key: &str, value: &str| -> Result<(), serde_json::Error> {
        out.push(if out.is_empty() { b'{' } else { b',' });
        serde_json::to_writer(&mut out, key)?;
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
        Ok(())
    };
    for (key, value) in &object.0 {
        match edits.iter().find(|(name, _)| name == key) {
            None => put(key, value.get())?,
            Some((_, Edit::Set(text))) => put(key, text)?,
            Some((_, Edit::Remove)) => {}
        }
    }
    for (key, edit) in edits {
        if let (Edit::Set(text), None) = (edit, object.get(key)) {
            put(key, text)?;
        }
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(out)
}

/// JSON text that is known to be valid because we serialised it.
///
/// # Panics
///
/// Never for types whose serialisation cannot fail, which is all this is used for.
pub fn to_raw<T: serde::Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("plain data serialises")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_keep_every_other_byte() {
        let json = br#"{"model":"a/b", "x": [1, 2 ,{"k" : null}],"n":1.0e5 ,"gone":1}"#;
        let edits = [
            ("model", Edit::Set("\"b\"".into())),
            ("gone", Edit::Remove),
            ("new", Edit::Set("true".into())),
        ];
        let out = String::from_utf8(edit_object(json, &edits).unwrap()).unwrap();
        assert_eq!(out, r#"{"model":"b","x":[1, 2 ,{"k" : null}],"n":1.0e5,"new":true}"#);
        assert_eq!(edit_object(b"{}", &[]).unwrap(), b"{}");
        assert!(edit_object(b"[]", &[]).is_err());
    }

    #[test]
    fn counts_are_whole_numbers_or_nothing() {
        for (json, count) in [
            ("3", Some(3)),
            ("3.0", Some(3)),
            ("-1", None),
            ("1.5", None),
            ("1e300", None),
            ("\"3\"", None),
            ("null", None),
            ("[1]", None),
            ("{}", None),
        ] {
            assert_eq!(serde_json::from_str::<Count>(json).unwrap().0, count, "{json}");
        }
    }

    #[test]
    fn lenient_types_read_the_wrong_type_as_nothing() {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        struct Row<'a> {
            #[serde(borrow)]
            text: Str<'a>,
            #[serde(borrow)]
            list: TextOrList<'a, Obj<Inner>>,
            inner: Obj<Inner>,
        }
        #[derive(Debug, Default, Deserialize, PartialEq)]
        #[serde(default)]
        struct Inner {
            n: i32,
        }
        for odd in ["1", "1.5", "true", "null", "[[1],{}]", r#"{"a":[{}]}"#, "\"s\""] {
            let json = format!(r#"{{"text":{odd},"list":{odd}}}"#);
            let row: Row<'_> = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{odd}: {e}"));
            assert_eq!(row.text.get(), (odd == "\"s\"").then_some("s"), "{odd}");
        }
        let row: Row<'_> =
            serde_json::from_str(r#"{"list":[{"n":1},2,"x",null],"inner":{"n":2}}"#).unwrap();
        let TextOrList::List(list) = row.list else { panic!("a list") };
        assert_eq!(list.iter().filter(|item| item.0.is_some()).count(), 1);
        assert_eq!(row.inner.0, Some(Inner { n: 2 }));
        assert!(matches!(
            serde_json::from_str::<Row<'_>>(r#"{"text":"plain"}"#).unwrap().text.0,
            Some(Cow::Borrowed("plain"))
        ));
    }
}
