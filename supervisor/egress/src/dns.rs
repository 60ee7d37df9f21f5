//! Answers to a sandbox's DNS questions: bytes in, bytes out.
//!
//! Nothing is asked of anybody here. A name that may be connected to has a virtual address; every other name
//! does not exist, which is the answer all resolvers give up on at once (REFUSED and SERVFAIL make glibc and
//! node try again for seconds).

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use crate::name::{HostName, NameError};

/// Longest question that is read; real ones stay under 512 bytes.
pub const MAX_QUESTION: usize = 4096;

/// What is asked about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address.
    V4,
    /// An IPv6 address.
    V6,
    /// Anything else: HTTPS, MX, TXT, ANY ...
    Other,
}

/// What is said about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has this address, which must be of the kind asked for.
    Address(IpAddr),
    /// It exists and has nothing of this kind.
    Nothing,
    /// It does not exist here, with the words for the extended error.
    Denied(&'static str),
}

/// Seconds a client may keep an answer. Addresses are stable, so nothing is gained by less, and a policy that
/// is replaced is obeyed at the connection anyway.
const TTL: u32 = 60;

/// Code of the EDNS option "extended DNS error", and its value "Blocked": a policy of the resolver's operator
/// (RFC 8914, section 4.16).
const EXTENDED_ERROR: u16 = 15;
const BLOCKED: u16 = 15;

/// The answer to a packet, or `None` when it deserves none: too short for a header, or itself an answer.
pub fn respond(
    packet: &[u8],
    mut about: impl FnMut(Result<&HostName, NameError>, Kind) -> Answer,
) -> Option<Vec<u8>> {
    let (id, flags) = (u16::from_be_bytes(*packet.first_chunk()?), packet.get(2)?);
    if packet.len() < 12 || flags & 0x80 != 0 {
        return None;
    }
    let Ok(question) = Message::from_vec(packet) else {
        return Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok();
    };
    if question.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut response = Message::response(id, question.metadata.op_code);
    response.metadata = Metadata::response_from_request(&question.metadata);
    response.metadata.recursion_available = true;
    if let Some(asked) = &question.edns {
        response.set_edns(edns(asked));
    }
    match problem(&question) {
        Some(code) => response.metadata.response_code = code,
        None => answer(&mut response, &question.queries[0], &mut about),
    }
    response.to_vec().ok()
}

/// What keeps a well-formed message from being a question we answer.
fn problem(message: &Message) -> Option<ResponseCode> {
    if message.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    match message.queries.as_slice() {
        [query] if query.query_class == DNSClass::IN => None,
        [_] => Some(ResponseCode::NotImp),
        _ => Some(ResponseCode::FormErr),
    }
}

fn answer(
    response: &mut Message,
    query: &Query,
    about: &mut impl FnMut(Result<&HostName, NameError>, Kind) -> Answer,
) {
    response.add_query(query.clone());
    let kind = match query.query_type {
        RecordType::A => Kind::V4,
        RecordType::AAAA => Kind::V6,
        _ => Kind::Other,
    };
    let name = HostName::from_wire(&query.name);
    match about(name.as_ref().map_err(|error| *error), kind) {
        Answer::Address(address) => {
            let data = match address {
                IpAddr::V4(address) => RData::A(A(address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            };
            response.add_answer(Record::from_rdata(query.name.clone(), TTL, data));
        }
        Answer::Nothing => {}
        Answer::Denied(words) => {
            response.metadata.response_code = ResponseCode::NXDomain;
            if let Some(edns) = &mut response.edns {
                let data = [&BLOCKED.to_be_bytes()[..], words.as_bytes()].concat();
                edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
            }
        }
    }
}

/// Our side of EDNS: only version 0 exists, so a client of another one is told so by it.
fn edns(asked: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(1232).set_dnssec_ok(asked.flags().dnssec_ok);
    edns
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    use super::*;

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        message.metadata.recursion_desired = true;
        message
    }

    fn ask(message: &Message, said: Answer) -> Message {
        let bytes = respond(&message.to_vec().unwrap(), |_, _| said).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        answer
    }

    #[test]
    fn an_address_is_answered_under_the_name_as_it_was_asked() {
        let asked = question("Api.Example.com.", RecordType::A);
        let got = ask(&asked, Answer::Address("198.18.1.0".parse().unwrap()));
        assert_eq!(got.metadata.response_code, ResponseCode::NoError);
        assert!(got.metadata.recursion_available);
        assert_eq!(got.queries, asked.queries);
        assert!(got.queries[0].name.eq_case(&asked.queries[0].name), "mixed case is a client's entropy");
        assert_eq!(got.answers[0].data, RData::A(A("198.18.1.0".parse().unwrap())));
    }

    #[test]
    fn the_judge_hears_the_canonical_name_and_the_kind() {
        let mut heard = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::ANY] {
            let packet = question("A.B.", kind).to_vec().unwrap();
            respond(&packet, |name, kind| {
                heard.push((name.unwrap().to_string(), kind));
                Answer::Nothing
            });
        }
        let kinds = [Kind::V4, Kind::V6, Kind::Other, Kind::Other];
        assert_eq!(heard, kinds.map(|kind| ("a.b".to_owned(), kind)));
    }

    #[test]
    fn nothing_of_a_kind_is_an_empty_answer_without_error() {
        let got = ask(&question("a.example.", RecordType::HTTPS), Answer::Nothing);
        assert_eq!((got.metadata.response_code, got.answers.len()), (ResponseCode::NoError, 0));
    }

    #[test]
    fn a_denied_name_does_not_exist_and_says_why_to_who_can_hear_it() {
        let mut asked = question("evil.example.", RecordType::A);
        let got = ask(&asked, Answer::Denied("why"));
        assert_eq!((got.metadata.response_code, got.edns), (ResponseCode::NXDomain, None));
        asked.set_edns(Edns::new());
        let options = ask(&asked, Answer::Denied("why")).edns.unwrap();
        let expected = EdnsOption::Unknown(EXTENDED_ERROR, b"\0\x0fwhy".to_vec());
        assert_eq!(options.options().get(EXTENDED_ERROR.into()), Some(&expected));
    }

    #[test]
    fn what_is_no_question_is_not_judged() {
        let packet = |message: &Message| message.to_vec().unwrap();
        let judged = |_: Result<&HostName, NameError>, _: Kind| -> Answer { panic!("judged") };
        let code = |bytes: &[u8]| {
            Message::from_vec(&respond(bytes, judged).unwrap()).unwrap().metadata.response_code
        };
        let mut chaos = question("a.example.", RecordType::A);
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&packet(&chaos)), ResponseCode::NotImp);
        let mut two = question("a.example.", RecordType::A);
        two.add_query(Query::query(Name::root(), RecordType::A));
        assert_eq!(code(&packet(&two)), ResponseCode::FormErr);
        let mut update = question("a.example.", RecordType::A);
        update.metadata.op_code = OpCode::Update;
        assert_eq!(code(&packet(&update)), ResponseCode::NotImp);
        let mut cut = packet(&question("a.example.", RecordType::A));
        cut.pop();
        assert_eq!(code(&cut), ResponseCode::FormErr);
        let answer = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert_eq!(respond(&answer, judged), None);
        assert_eq!(respond(&[0; 11], judged), None);
    }

    #[test]
    fn a_name_that_points_at_itself_is_a_format_error() {
        let mut packet = question("a.", RecordType::A).to_vec().unwrap();
        packet.truncate(12);
        packet.extend([0xc0, 12, 0, 1, 0, 1]);
        let answer = respond(&packet, |_, _| Answer::Nothing).unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().metadata.response_code, ResponseCode::FormErr);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn no_packet_makes_it_panic_or_answer_at_length(
            packet in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let answer = respond(&packet, |_, _| Answer::Denied("why"));
            prop_assert!(answer.is_none_or(|bytes| bytes.len() <= 512));
        }

        #[test]
        fn no_damage_to_a_question_makes_it_panic(
            place in 0_usize..60, byte in any::<u8>(), edns in any::<bool>(),
        ) {
            let mut message = question("some.long.name.example.", RecordType::AAAA);
            if edns {
                message.set_edns(Edns::new());
            }
            let mut packet = message.to_vec().unwrap();
            if let Some(hit) = packet.get_mut(place) {
                *hit = byte;
            }
            let answer = respond(&packet, |_, _| Answer::Denied("why"));
            prop_assert!(answer.is_none_or(|bytes| Message::from_vec(&bytes).is_ok()));
        }
    }
}
