//! S3's documents, read as a stream of elements.

use std::io::BufRead;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;

use crate::aws::refusal::ApiError;
use crate::aws::xml::Malformed;

/// Reads a document to its end. Each element that ends is told: its path below the root, as `/Contents/Key`, and its text; an
/// element with others in it has none.
///
/// Returns the root's name. An error's own document (`Error`) is always accepted, whatever the status: S3 sends it with 200, too
/// (S3 API Reference, "CompleteMultipartUpload").
///
/// # Errors
/// The document is malformed, ends early, is followed by something, or is another one than expected.
pub fn read_document(
    source: &mut dyn BufRead,
    expected: &str,
    ended: &mut dyn FnMut(&str, &str),
) -> Result<Option<ApiError>, Malformed> {
    let mut reader = Reader::from_reader(source);
    let (mut buffer, mut path, mut marks) = (Vec::new(), String::new(), Vec::new());
    let (mut text, mut is_leaf, mut refused, mut complete) = (String::new(), false, None, false);
    loop {
        let event = reader.read_event_into(&mut buffer)?;
        let (opens, closes) = match &event {
            Event::Start(tag) => (Some(tag), false),
            Event::Empty(tag) => (Some(tag), true),
            Event::End(_) => (None, true),
            Event::Eof => break,
            _ => (None, false),
        };
        if let Some(tag) = opens {
            let name = tag.local_name();
            let name: &str = name.as_ref();
            if marks.is_empty() {
                match name {
                    _ if complete => return Err(Malformed::Second(name.to_owned())),
                    "Error" => refused = Some(ApiError::default()),
                    name if name == expected => {}
                    _ => return Err(Malformed::Root(name.to_owned())),
                }
                marks.push(0);
            } else {
                marks.push(path.len());
                path.push('/');
                path.push_str(name);
            }
            text.clear();
            is_leaf = true;
        }
        if closes {
            let text = if is_leaf { text.as_str() } else { "" };
            match (&mut refused, path.as_str()) {
                (Some(error), "/Code") => text.trim().clone_into(&mut error.code),
                (Some(error), "/Message") => text.trim().clone_into(&mut error.message),
                (Some(_), _) => {}
                (None, path) => ended(path, text),
            }
            path.truncate(marks.pop().unwrap_or(0));
            is_leaf = false;
            complete = marks.is_empty();
        }
        match event {
            Event::Text(piece) if is_leaf => text.push_str(&piece.xml10_content()),
            Event::CData(piece) if is_leaf => text.push_str(&piece.xml10_content()),
            Event::GeneralRef(entity) => match (entity.resolve_char_ref(), resolve_predefined_entity(&entity)) {
                (Ok(Some(character)), _) => text.push(character),
                (Ok(None), Some(predefined)) => text.push_str(predefined),
                _ => return Err(Malformed::Reference(entity.as_ref().to_owned())),
            },
            _ => {}
        }
        buffer.clear();
    }
    match (complete, reader.buffer_position()) {
        (true, _) => Ok(refused),
        (false, 0) => Err(Malformed::Empty),
        (false, at) => Err(Malformed::Truncated { at }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = (Vec<(String, String)>, Option<ApiError>);

    fn read(text: &str) -> Result<Found, Malformed> {
        let mut elements = Vec::new();
        let mut source = text.as_bytes();
        let refused =
            read_document(&mut source, "R", &mut |path, text| elements.push((path.to_owned(), text.to_owned())))?;
        Ok((elements, refused))
    }

    #[test]
    fn an_element_has_its_own_text_and_its_whole_path() {
        let (elements, refused) =
            read("<R xmlns='x'>\n <C> <K>a &amp; &#228; b</K> <E/> </C>\n<K>c</K></R>\n").unwrap();
        let elements: Vec<_> = elements.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        assert_eq!(elements, [("/C/K", "a & ä b"), ("/C/E", ""), ("/C", ""), ("/K", "c"), ("", "")]);
        assert_eq!(refused, None);
    }

    #[test]
    fn an_error_is_read_in_place_of_what_was_expected() {
        let (elements, refused) = read("  <Error><Code>SlowDown</Code><Message>m</Message></Error>").unwrap();
        assert_eq!((elements, refused), (vec![], Some(ApiError { code: "SlowDown".into(), message: "m".into() })));
    }

    #[test]
    fn what_is_not_the_whole_document_is_none() {
        let whole = "<R><K>a</K></R>";
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "cut at {end}");
        }
        assert!(matches!(read("<html></html>"), Err(Malformed::Root(_))));
        assert!(matches!(read("<R/><R>"), Err(Malformed::Second(_))));
        assert!(matches!(read("<R>&nbsp;</R>"), Err(Malformed::Reference(_))));
        assert!(matches!(read("   "), Err(Malformed::Empty | Malformed::Truncated { .. })));
    }
}
