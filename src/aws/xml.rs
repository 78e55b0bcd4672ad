//! Parses DescribeInstances' answer, and every service's errors, as a stream: of a page only its instances are kept, never its
//! text.
//!
//! (EC2 API Reference, DescribeInstances and "Error codes"; moto's errors have another root, so both are read.)

use std::fmt;
use std::io::BufRead;

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, Event};

use super::refusal::ApiError;
use crate::core::initial_list::first_host_name;
use crate::core::types::{Instance, InstanceId, InstanceState};
use crate::util::clock;

/// One answer of EC2's Query API.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub instances: Vec<Described>,
    pub next_token: Option<String>,
    /// Instances whose status (DescribeInstanceStatus) is impaired.
    pub impaired: Vec<InstanceId>,
    /// A role's session (AssumeRole and its kin).
    pub session: Option<Session>,
    pub error: Option<ApiError>,
}

/// A role's session, as STS gives it.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Session {
    pub key: String,
    pub secret: String,
    pub token: String,
    /// In RFC 3339.
    pub expiration: String,
}

impl Session {
    fn set(&mut self, field: &str, text: String) {
        match field {
            "/AccessKeyId" => self.key = text,
            "/SecretAccessKey" => self.secret = text,
            "/SessionToken" => self.token = text,
            "/Expiration" => self.expiration = text,
            _ => {}
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("expiration", &self.expiration).finish_non_exhaustive()
    }
}

/// An instance with data that only few callers need: the tags of ten thousand instances must not be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub instance: Instance,
    pub tags: Vec<(String, String)>,
}

/// Why a page can't be parsed.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("malformed XML: {0}")]
    Xml(#[from] quick_xml::Error),
    /// The document ended before its root did.
    #[error("truncated XML: ends at byte {at}")]
    Truncated { at: u64 },
    /// An instance lacks this, or has it in a form that can't be parsed.
    #[error("instance {instance}: {field} is {value:?}")]
    Field { instance: String, field: &'static str, value: String },
    #[error("empty answer")]
    Empty,
    /// A document other than the requested one (a proxy's HTML).
    #[error("not AWS's answer: the document is <{0}>")]
    Root(String),
    /// Something follows the document.
    #[error("not AWS's answer: <{0}> follows the document")]
    Second(String),
    /// A reference to an unknown entity.
    #[error("not AWS's answer: &{0}; is an unknown entity")]
    Reference(String),
}

/// Parses one page to its end.
///
/// # Errors
/// The page is malformed, or ends early.
pub fn read_page(source: impl BufRead) -> Result<Page, Malformed> {
    let mut reader = Reader::from_reader(source);
    let mut fold = Fold::default();
    let mut buffer = Vec::new();
    loop {
        match reader.read_event_into(&mut buffer)? {
            Event::Start(tag) => fold.open(tag.local_name().as_ref())?,
            Event::End(_) => fold.close()?,
            Event::Empty(tag) => {
                fold.open(tag.local_name().as_ref())?;
                fold.close()?;
            }
            Event::Text(text) if fold.opened => fold.text.push_str(&text.xml10_content()),
            Event::CData(text) => fold.text.push_str(&text.xml10_content()),
            Event::GeneralRef(entity) => fold.resolve(&entity)?,
            Event::Eof => break,
            Event::Text(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
        buffer.clear();
    }
    if !fold.ended {
        let at = reader.buffer_position();
        return Err(if at == 0 { Malformed::Empty } else { Malformed::Truncated { at } });
    }
    Ok(fold.page)
}

/// The position in the document, and what was read of the current instance.
#[derive(Default)]
struct Fold {
    page: Page,
    /// Local names from below the root, each preceded by a slash.
    path: String,
    /// Lengths of `path` before each open element; the root's is the first.
    marks: Vec<usize>,
    place: Place,
    /// Nothing was closed since the last element was opened: the text that follows is its own, not the white space between two
    /// elements.
    opened: bool,
    text: String,
    ended: bool,
    draft: Draft,
    tag: (String, String),
    /// Device index and attachment time of the current interface.
    interface: (String, String),
}

/// The start of a subtree that matters: matched once, where it begins, and not again at each of a hundred elements inside.
#[derive(Default, Clone, Copy)]
enum Place {
    #[default]
    Document,
    Instance,
    Status,
}

#[derive(Default)]
struct Draft {
    id: String,
    state: String,
    launched: String,
    attached: String,
    address: Option<String>,
    ipv6: Option<String>,
    private_dns: Option<String>,
    zone: String,
    reason: String,
    tags: Vec<(String, String)>,
    impaired: bool,
}

const INSTANCE: &str = "/reservationSet/item/instancesSet/item";
const STATUS: &str = "/instanceStatusSet/item";
const SESSIONS: [&str; 2] = ["/AssumeRoleResult/Credentials", "/AssumeRoleWithWebIdentityResult/Credentials"];
const ROOTS: [&str; 8] = [
    "DescribeInstancesResponse",
    "DescribeInstanceStatusResponse",
    "CompleteLifecycleActionResponse",
    "AssumeRoleResponse",
    "AssumeRoleWithWebIdentityResponse",
    "Response",
    "ErrorResponse",
    S3_ERROR,
];
/// S3's errors are the whole document.
const S3_ERROR: &str = "Error";

impl Fold {
    fn open(&mut self, name: &str) -> Result<(), Malformed> {
        self.marks.push(self.path.len());
        if self.marks.len() == 1 {
            return match ROOTS.contains(&name) {
                // A page that ends early within a second document would look complete.
                _ if self.ended => Err(Malformed::Second(name.to_owned())),
                true => Ok(()),
                false => Err(Malformed::Root(name.to_owned())),
            };
        }
        self.path.push('/');
        self.path.push_str(name);
        self.text.clear();
        self.opened = true;
        match self.path.as_str() {
            INSTANCE => self.place = Place::Instance,
            STATUS => self.place = Place::Status,
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Malformed> {
        self.leaf()?;
        self.text.clear();
        self.opened = false;
        let mark = self.marks.pop().unwrap_or(0);
        self.path.truncate(mark);
        self.ended = self.marks.is_empty();
        Ok(())
    }

    /// Takes the text of an element that matters. The whole path is matched, because network interfaces and volumes repeat
    /// `privateIpAddress`, `tagSet` and `item` further down.
    fn leaf(&mut self) -> Result<(), Malformed> {
        match self.place {
            Place::Instance => match &self.path[INSTANCE.len()..] {
                "" => {
                    self.place = Place::Document;
                    let draft = std::mem::take(&mut self.draft);
                    self.page.instances.push(draft.finish()?);
                }
                "/instanceId" => self.draft.id = self.take(),
                "/privateIpAddress" => self.draft.address = Some(self.take()),
                "/ipv6Address" => self.draft.ipv6 = Some(self.take()),
                // The first address of the first interface is the one that IMDS shows.
                "/networkInterfaceSet/item/ipv6AddressesSet/item/ipv6Address" if self.draft.ipv6.is_none() => {
                    self.draft.ipv6 = Some(self.take());
                }
                "/privateDnsName" => self.draft.private_dns = Some(self.take()),
                "/reason" => self.draft.reason = self.take(),
                "/launchTime" => self.draft.launched = self.take(),
                "/instanceState/name" => self.draft.state = self.take(),
                "/placement/availabilityZone" => self.draft.zone = self.take(),
                "/tagSet/item/key" => self.tag.0 = self.take(),
                "/tagSet/item/value" => self.tag.1 = self.take(),
                "/networkInterfaceSet/item/attachment/deviceIndex" => self.interface.0 = self.take(),
                "/networkInterfaceSet/item/attachment/attachTime" => self.interface.1 = self.take(),
                "/networkInterfaceSet/item/attachment" => {
                    let (index, attached) = std::mem::take(&mut self.interface);
                    // The primary interface stays with the instance for its whole life (EC2 User Guide, "Elastic network
                    // interfaces").
                    if index == "0" {
                        self.draft.attached = attached;
                    }
                }
                "/tagSet/item" => {
                    let tag = std::mem::take(&mut self.tag);
                    self.draft.tags.push(tag);
                }
                _ => {}
            },
            Place::Status => match &self.path[STATUS.len()..] {
                "" => {
                    self.place = Place::Document;
                    let draft = std::mem::take(&mut self.draft);
                    if draft.impaired {
                        self.page.impaired.push(InstanceId(draft.id));
                    }
                }
                "/instanceId" => self.draft.id = self.take(),
                "/instanceStatus/status" | "/systemStatus/status" => self.draft.impaired |= self.text == "impaired",
                _ => {}
            },
            Place::Document => match self.path.as_str() {
                "/nextToken" => self.page.next_token = Some(self.take()).filter(|token| !token.is_empty()),
                "/Errors/Error/Code" | "/Error/Code" | "/Code" => {
                    self.page.error.get_or_insert_default().code = self.take()
                }
                "/Errors/Error/Message" | "/Error/Message" | "/Message" => {
                    self.page.error.get_or_insert_default().message = self.take();
                }
                path => {
                    let field = SESSIONS.iter().find_map(|within| path.strip_prefix(within)).map(str::to_owned);
                    if let Some(field) = field {
                        let text = self.take();
                        self.page.session.get_or_insert_default().set(&field, text);
                    }
                }
            },
        }
        Ok(())
    }

    fn take(&mut self) -> String {
        let text = self.text.trim().to_owned();
        self.text.clear();
        text
    }

    fn resolve(&mut self, entity: &BytesRef<'_>) -> Result<(), Malformed> {
        match (entity.resolve_char_ref(), resolve_predefined_entity(entity)) {
            (Ok(Some(character)), _) => self.text.push(character),
            (Ok(None), Some(text)) => self.text.push_str(text),
            _ => return Err(Malformed::Reference(entity.as_ref().to_owned())),
        }
        Ok(())
    }
}

impl Draft {
    fn finish(self) -> Result<Described, Malformed> {
        let field = |field, value: &str| Malformed::Field { instance: self.id.clone(), field, value: value.to_owned() };
        if self.id.is_empty() {
            return Err(field("instanceId", ""));
        }
        let state = InstanceState::parse(&self.state).ok_or_else(|| field("instanceState", &self.state))?;
        let launched = clock::parse_rfc3339(&self.launched).ok_or_else(|| field("launchTime", &self.launched))?;
        let attached = match self.attached.as_str() {
            "" => None,
            text => Some(clock::parse_rfc3339(text).ok_or_else(|| field("attachTime", text))?),
        };
        // IPv4 if there is one, as the metadata service does.
        let addresses = [("privateIpAddress", &self.address), ("ipv6Address", &self.ipv6)];
        let given =
            addresses.into_iter().find_map(|(name, text)| Some((name, text.as_deref().filter(|t| !t.is_empty())?)));
        let address = match given {
            Some((name, text)) => Some(text.parse().map_err(|_| field(name, text))?),
            None => None,
        };
        // StateTransitionReason: "User initiated (2015-12-22 10:44:05 GMT)".
        let stamp = self.reason.rsplit_once('(').map(|(_, stamp)| stamp);
        let changed = stamp.and_then(|s| s.get(..19)).and_then(|s| clock::parse_rfc3339(&format!("{s}Z")));
        let instance = Instance {
            id: InstanceId(self.id),
            state,
            launched: Some(launched),
            attached,
            changed,
            address,
            private_dns: self.private_dns.as_deref().and_then(first_host_name),
            zone: self.zone,
        };
        Ok(Described { instance, tags: self.tags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Page, Malformed> {
        read_page(text.as_bytes())
    }

    const PAGE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
  <nextToken>more&amp;more</nextToken>
  <reservationSet><item><reservationId>r-1</reservationId><instancesSet><item>
    <instanceId>i-0a</instanceId><instanceState><code>16</code><name>running</name></instanceState>
    <privateDnsName>ip-10-0-0-1.ec2.internal</privateDnsName><launchTime>2015-12-22T10:44:05.000Z</launchTime>
    <reason>User initiated (2015-12-22 10:45:00 GMT)</reason>
    <placement><availabilityZone>eu-west-1a</availabilityZone></placement>
    <privateIpAddress>10.0.0.1</privateIpAddress>
    <tagSet><item><key>etcd</key><value>1</value></item><item><key>Name</key><value>a &lt;b&gt; &#233;</value></item></tagSet>
    <networkInterfaceSet><item><privateIpAddress>10.9.9.9</privateIpAddress>
      <tagSet><item><key>etcd</key><value>other</value></item></tagSet></item></networkInterfaceSet>
  </item></instancesSet></item></reservationSet>
</DescribeInstancesResponse>"#;

    #[test]
    fn an_instance_is_read_by_whole_paths() {
        let page = read(PAGE).unwrap();
        let Described { instance, tags } = &page.instances[0];
        assert_eq!(instance.changed, Some(1_450_781_100));
        assert_eq!(page.next_token.as_deref(), Some("more&more"));
        assert_eq!((instance.id.0.as_str(), instance.launched), ("i-0a", Some(1_450_781_045)));
        assert_eq!(instance.address.unwrap().to_string(), "10.0.0.1");
        let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(*tags, [tag("etcd", "1"), tag("Name", "a <b> é")]);
    }

    #[test]
    fn an_instance_without_ipv4_is_at_its_ipv6_address() {
        let address = |text: &str| read(text).unwrap().instances[0].instance.address.map(|a| a.to_string());
        let interface = "<privateIpAddress>10.9.9.9</privateIpAddress>";
        let within = "<ipv6AddressesSet><item><ipv6Address>fd00::9</ipv6Address></item></ipv6AddressesSet>";
        let both = PAGE.replace(interface, &format!("{interface}{within}"));
        assert_eq!(address(&both).as_deref(), Some("10.0.0.1"));
        let only = both.replace("<privateIpAddress>10.0.0.1</privateIpAddress>", "");
        assert_eq!(address(&only).as_deref(), Some("fd00::9"));
        let own = only.replace("<tagSet><item><key>etcd", "<ipv6Address>fd00::1</ipv6Address><tagSet><item><key>etcd");
        assert_eq!(address(&own.replacen("fd00::1", "fd00::2", 0)).as_deref(), Some("fd00::1"));
        assert!(matches!(read(&own.replace("fd00::1", "fd00")), Err(Malformed::Field { field: "ipv6Address", .. })));
    }

    #[test]
    fn what_follows_the_instances_is_read_as_what_stands_before_them() {
        let after = PAGE.replace("<nextToken>more&amp;more</nextToken>", "");
        let after = after.replace("</reservationSet>", "</reservationSet><nextToken>more&amp;more</nextToken>");
        assert_ne!(after, PAGE);
        assert_eq!(read(&after).unwrap(), read(PAGE).unwrap());
    }

    #[test]
    fn an_instance_is_impaired_by_either_of_its_checks() {
        let item = |id, system, own| {
            let status = |kind, status| format!("<{kind}><status>{status}</status></{kind}>");
            let both = format!("{}{}", status("systemStatus", system), status("instanceStatus", own));
            format!("<item><instanceId>{id}</instanceId>{both}</item>")
        };
        let items = [
            item("i-1", "ok", "ok"),
            item("i-2", "impaired", "ok"),
            item("i-3", "ok", "impaired"),
            item("i-4", "ok", "ok"),
        ];
        let set = format!("<instanceStatusSet>{}</instanceStatusSet><nextToken>t</nextToken>", items.concat());
        let page = read(&format!("<DescribeInstanceStatusResponse>{set}</DescribeInstanceStatusResponse>")).unwrap();
        assert_eq!(page.impaired, ["i-2", "i-3"].map(|id| InstanceId(id.to_owned())));
        assert_eq!(page.next_token.as_deref(), Some("t"));
    }

    #[test]
    fn every_truncation_is_an_error() {
        for end in 0..PAGE.len() {
            if PAGE.is_char_boundary(end) {
                assert!(read(&PAGE[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn all_error_documents_are_read() {
        for root in ["Response", "ErrorResponse"] {
            let text = format!("<{root}><Errors><Error><Code>X</Code><Message>m</Message></Error></Errors></{root}>");
            assert_eq!(read(&text).unwrap().error, Some(ApiError { code: "X".into(), message: "m".into() }));
        }
        let s3 = read("<Error><Code>NoSuchKey</Code><Message>m</Message><Key>k</Key></Error>").unwrap();
        assert_eq!(s3.error, Some(ApiError { code: "NoSuchKey".into(), message: "m".into() }));
        assert!(matches!(read("<html></html>"), Err(Malformed::Root(_))));
    }

    #[test]
    fn a_session_is_read_and_nothing_secret_of_it_shown() {
        for action in ["AssumeRole", "AssumeRoleWithWebIdentity"] {
            let text = format!(
                "<{action}Response><{action}Result><SubjectFromWebIdentityToken>x</SubjectFromWebIdentityToken><AssumedRoleUser><Arn>a</Arn>\
                 </AssumedRoleUser><Credentials><AccessKeyId>k</AccessKeyId><SecretAccessKey>hunter2</SecretAccessKey><SessionToken>t0&amp;ken\
                 </SessionToken><Expiration>2026-01-01T00:00:00Z</Expiration></Credentials></{action}Result></{action}Response>"
            );
            let page = read(&text).unwrap();
            let (key, secret) = ("k".to_owned(), "hunter2".to_owned());
            let (token, expiration) = ("t0&ken".to_owned(), "2026-01-01T00:00:00Z".to_owned());
            assert_eq!(page.session, Some(Session { key, secret, token, expiration }));
            let shown = format!("{page:?}");
            assert!(!shown.contains("hunter2") && !shown.contains("t0&ken"), "{shown}");
        }
        assert_eq!(read(PAGE).unwrap().session, None);
    }

    #[test]
    fn a_second_document_is_no_part_of_a_page() {
        let one = "<DescribeInstancesResponse></DescribeInstancesResponse>";
        assert!(read(one).is_ok());
        assert!(matches!(read(&format!("{one}{PAGE}")), Err(Malformed::Second(_))));
    }

    #[test]
    fn an_unreadable_field_is_an_error_not_a_default() {
        assert!(matches!(
            read(&PAGE.replace("running", "resting")),
            Err(Malformed::Field { field: "instanceState", .. })
        ));
        assert!(matches!(read(&PAGE.replace("10.0.0.1<", "10.0.0<")), Err(Malformed::Field { .. })));
        assert_eq!(read(&PAGE.replace("10.0.0.1<", "<")).unwrap().instances[0].instance.address, None);
        assert!(matches!(read(&PAGE.replace("i-0a", "i-&nothing;0a")), Err(Malformed::Reference(_))));
        assert!(matches!(read(&PAGE.replace("i-0a", "i-&#xfffffff;0a")), Err(Malformed::Reference(_))));
    }
}
