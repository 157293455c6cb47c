//! Peers that change, reorder or invent messages.

use proptest::prelude::*;

use super::*;

const METHODS: [AuthMethod; 3] = [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256];

/// Whoever sits on the wire and changes one bit must not get either side to believe the other.
#[test]
fn one_changed_bit_anywhere_ends_a_scram_login() {
    for is_encrypted in [false, true] {
        let login = Login::new(AuthMethod::ScramSha256, Some(prepared("s3cret")), plain("s3cret"));
        let login = if is_encrypted { login.encrypted() } else { login };
        let honest = login.run();
        assert!(honest.is_content);
        for (number, message) in honest.messages.iter().enumerate() {
            // Of the offer, what follows the stronger mechanism is free: it will not be chosen.
            let offer = message.body.windows(6).position(|part| part == b"-PLUS\0").filter(|_| number == 0);
            let bytes = offer.map_or(message.body.len(), |at| at + 6);
            for at in 0..bytes {
                for bit in 0..8 {
                    let ended = login.run_tampered(|this, message| {
                        if this == number {
                            message.body[at] ^= 1 << bit;
                        }
                    });
                    assert!(!ended.is_content, "message {number}, byte {at}, bit {bit}: {ended:?}");
                    let is_verdict = number + 1 == honest.messages.len();
                    assert_eq!(ended.proof.is_some(), is_verdict, "message {number}, byte {at}, bit {bit}");
                }
            }
        }
    }
}

/// The same for the methods that prove less: a changed answer is never right.
#[test]
fn one_changed_bit_in_the_answer_ends_a_login_by_password_or_md5() {
    for method in [AuthMethod::Password, AuthMethod::Md5] {
        let login = Login::new(method, Some(prepared("s3cret")), plain("s3cret"));
        for at in 0..login.run().messages[1].body.len() {
            for bit in 0..8 {
                let ended = login.run_tampered(|number, message| {
                    if number == 1 {
                        message.body[at] ^= 1 << bit;
                    }
                });
                assert!(ended.refusal.is_some(), "{method:?}, byte {at}, bit {bit}: {ended:?}");
            }
        }
    }
}

/// A message cut short or with bytes behind it is never taken for the whole.
#[test]
fn a_message_of_another_length_ends_a_scram_login() {
    let login = Login::new(AuthMethod::ScramSha256, Some(prepared("s3cret")), plain("s3cret")).encrypted();
    for (number, message) in login.run().messages.iter().enumerate() {
        for length in (0..message.body.len()).chain([message.body.len() + 1]) {
            let ended = login.run_tampered(|this, message| {
                if this == number {
                    message.body.resize(length, b'A');
                }
            });
            assert!(!ended.is_content, "message {number} of {length} bytes: {ended:?}");
        }
    }
}

/// The step after a proof must not be reachable without it.
#[test]
fn a_message_out_of_order_is_refused_with_08p01() {
    for method in METHODS {
        let login = Login::new(method, Some(prepared("s3cret")), plain("s3cret"));
        let account = prepared("s3cret");
        for message in login.run().messages.iter().filter(|message| message.tag == b'p') {
            for tag in *b"QPBESXdcfFH\0\xff" {
                let (mut front, _) =
                    ClientLogin::begin(method, "app", Account::Secret(&account), None, &mock(), &mut seeded());
                let Step::Refused(refusal) = front.message(tag, &message.body) else { panic!("{tag} was taken") };
                assert_eq!(refusal.report.sqlstate, "08P01");
                let again = front.message(b'p', &message.body);
                assert!(matches!(again, Step::Refused(_)), "nothing goes on after a refusal");
            }
        }
    }
}

/// SASLResponse before SASLInitialResponse, one message twice, anything after the end.
#[test]
fn a_scram_message_at_another_place_is_refused() {
    let login = Login::new(AuthMethod::ScramSha256, Some(prepared("s3cret")), plain("s3cret"));
    let honest = login.run();
    let account = prepared("s3cret");
    let begin = || {
        // The back end of the harness draws its nonce first.
        let mut random = seeded();
        ServerLogin::new("app", None, None, LoginRules::default(), &mut random);
        let account = Account::Secret(&account);
        ClientLogin::begin(AuthMethod::ScramSha256, "app", account, None, &mock(), &mut random).0
    };
    let (first, last) = (&honest.messages[1].body, &honest.messages[3].body);
    assert!(matches!(begin().message(b'p', last), Step::Refused(_)));
    let mut front = begin();
    assert!(matches!(front.message(b'p', first), Step::Send(_)));
    assert!(matches!(front.message(b'p', first), Step::Refused(_)));
    assert!(matches!(front.message(b'p', last), Step::Refused(_)), "a refused exchange is over");
    let mut front = begin();
    assert!(matches!(front.message(b'p', first), Step::Send(_)));
    assert!(matches!(front.message(b'p', last), Step::Done { .. }));
    assert!(matches!(front.message(b'p', last), Step::Refused(_)), "a finished login is over");
    let mut front = begin();
    assert!(matches!(front.salted(&[0; 32]), Step::Refused(_)), "nothing was asked");
}

/// A server that skips the end of SCRAM does not know the password.
#[test]
fn a_server_that_breaks_the_order_is_left() {
    let requests: [&[u8]; 7] = [
        b"\0\0\0\0",
        b"\0\0\0\x03",
        b"\0\0\0\x05salt",
        b"\0\0\0\x0aSCRAM-SHA-256\0\0",
        b"\0\0\0\x0br=x,s=AAAA,i=1",
        b"\0\0\0\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        b"\0\0\0\x07",
    ];
    let begin = || ServerLogin::new("app", plain("s3cret"), None, LoginRules::default(), &mut seeded());
    for request in requests {
        let mut login = begin();
        assert!(matches!(login.message(requests[3]), ServerStep::Send(_)));
        assert!(matches!(login.message(request), ServerStep::Failed(_)), "{request:?} after SASL");
        assert!(matches!(login.message(b"\0\0\0\0"), ServerStep::Failed(_)), "nothing goes on after a failure");
        let mut login = begin();
        assert!(matches!(login.message(requests[2]), ServerStep::Send(_)));
        let step = login.message(request);
        assert_eq!(matches!(step, ServerStep::Ok), request == requests[0], "{request:?} after MD5: {step:?}");
        assert!(matches!(login.message(b"\0\0\0\0"), ServerStep::Failed(_)), "a finished login is over");
    }
    for request in &requests[4..] {
        assert!(matches!(begin().message(request), ServerStep::Failed(_)), "{request:?} at first");
    }
    for mechanisms in ["", "\0", "SCRAM-SHA-1\0\0", "SCRAM-SHA-256", "SCRAM-SHA-256\0\0\0", "SCRAM-SHA-256-PLUS\0\0"] {
        let request = format!("\0\0\0\x0a{mechanisms}");
        assert!(matches!(begin().message(request.as_bytes()), ServerStep::Failed(_)), "{mechanisms:?}");
    }
    assert!(matches!(begin().message(&[0; MESSAGE_BYTES_MAX + 1]), ServerStep::Failed(_)));
}

/// An impostor without the verifier would say Ok at once: the whole point of SCRAM towards servers.
#[test]
fn a_server_that_lets_us_in_before_its_signature_is_left() {
    let login = Login::new(AuthMethod::ScramSha256, Some(prepared("s3cret")), plain("s3cret"));
    for (number, is_content) in [(2, false), (4, false), (9, true)] {
        let ended = login.run_tampered(|this, message| {
            if this == number {
                message.body = vec![0; 4];
            }
        });
        assert_eq!(ended.is_content, is_content, "message {number}");
        let failure = ended.failure.unwrap_or_default();
        assert_eq!(failure.contains("before it proved that it knows the password"), !is_content, "{failure}");
    }
}

/// What a peer may send: pieces of real messages, so that the deep states are reached, and noise.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let real = prop::sample::select(vec![
        "n,,n=,r=abc",
        "y,,n=,r=abc",
        "p=tls-server-end-point,,n=,r=abc",
        "SCRAM-SHA-256\0",
        "SCRAM-SHA-256-PLUS\0",
        "\0\0\0\x0b",
        "\0\0\0\x03",
        "\0\0\0\x05",
        "\0\0\0\x0a",
        "\0\0\0\x0c",
        "\0\0\0\0",
        "\0\0\0\x0bn,,n=,r=abc",
        "\u{7f}",
        "c=biws,",
        "r=",
        "s=AAAA,",
        "i=1",
        "i=4294967296",
        ",p=",
        "v=",
        "e=no",
        "md5",
        "\0",
        "secret\0",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "abcAAAAAAAAAAAAAAAAAAAAAAAA",
    ]);
    prop_oneof![
        8 => real.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(), 0..5).prop_map(|pieces| pieces.concat())
}

/// `None`: a salted password instead of a message.
fn inputs() -> impl Strategy<Value = Vec<Option<(u8, Vec<u8>)>>> {
    let tag = prop_oneof![9 => Just(b'p'), 1 => any::<u8>()];
    prop::collection::vec(prop::option::weighted(0.8, (tag, body())), 0..6)
}

proptest! {
    /// A panic would cost the client's connection, a login by noise everything.
    #[test]
    fn no_sequence_of_messages_panics_or_lets_a_client_in(
        inputs in inputs(),
        method in prop::sample::select(METHODS.to_vec()),
        form in 0..5_usize,
        is_encrypted: bool,
    ) {
        let credential = [
            Some(prepared("s3cret")),
            Some(md5_of("app", "s3cret")),
            Some(Credential::Scram(verifier("s3cret"))),
            Some(Credential::Plain { password: Secret::new("s3cret"), verifier: None }),
            None,
        ][form].clone();
        let account = credential.as_ref().map_or(Account::Unknown, Account::Secret);
        let tls = is_encrypted.then(tls);
        let (mut login, _) = ClientLogin::begin(method, "app", account, tls.as_ref(), &mock(), &mut seeded());
        for input in inputs {
            let step = match input {
                Some((tag, body)) => login.message(tag, &body),
                None => login.salted(&[3; 32]),
            };
            let is_in = matches!(step, Step::Done { .. });
            prop_assert!(!is_in);
        }
    }

    /// A server's noise must not cost more than its own connection, nor pass for a proof.
    #[test]
    fn no_sequence_of_requests_panics_or_yields_keys(
        inputs in inputs(),
        form in 0..4_usize,
        is_encrypted: bool,
        is_cleartext_allowed: bool,
        is_binding_required: bool,
    ) {
        let keys = ScramKeys::from_salted(&[3; 32], &[0, 0, 0], 1);
        let secret = [
            plain("s3cret"),
            Some(ServerSecret::Md5(SecretKey::new([b'0'; 32]))),
            Some(ServerSecret::Scram(keys)),
            None,
        ][form].clone();
        let tls = is_encrypted.then(tls);
        let rules = LoginRules { is_cleartext_allowed, is_binding_required };
        let mut login = ServerLogin::new("app", secret, tls.as_ref(), rules, &mut seeded());
        for input in inputs {
            let step = match input {
                Some((_, body)) => login.message(&body),
                None => login.salted(&[3; 32]),
            };
            let is_in_unbound = is_binding_required && matches!(step, ServerStep::Ok);
            prop_assert!(!is_in_unbound);
        }
        prop_assert!(login.into_keys().is_none());
    }
}
