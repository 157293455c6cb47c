//! Every method, with every credential that serves it, between our two sides.

use super::*;

fn assert_in(ended: &Ended, what: &str) {
    assert!(ended.proof.is_some() && ended.is_content, "{what}: {ended:?}");
}

fn assert_refused(ended: &Ended, what: &str) {
    let refusal = ended.refusal.as_ref().unwrap_or_else(|| panic!("{what}: {ended:?}"));
    assert_eq!(refusal.report.sqlstate, "28P01", "{what}");
    assert_eq!(refusal.report.message, "password authentication failed for user \"app\"", "{what}");
    assert!(!ended.is_content, "{what}");
}

/// The table of methods and stored secrets that the documentation promises.
#[test]
fn the_right_password_is_let_in_and_a_wrong_one_is_not() {
    let credentials = [
        ("plain", prepared("s3cret")),
        ("md5", md5_of("app", "s3cret")),
        ("verifier", Credential::Scram(verifier("s3cret"))),
        ("unprepared", Credential::Plain { password: Secret::new("s3cret"), verifier: None }),
    ];
    for method in [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256] {
        for (form, credential) in &credentials {
            for is_encrypted in [false, true] {
                let what = format!("{method:?} with {form}, encrypted {is_encrypted}");
                let login = |password: &str| {
                    let login = Login::new(method, Some(credential.clone()), plain(password));
                    if is_encrypted { login.encrypted().run() } else { login.run() }
                };
                // SCRAM can't check against MD5's hash; PostgreSQL refuses the same.
                if (method, *form) == (AuthMethod::ScramSha256, "md5") {
                    assert_refused(&login("s3cret"), &what);
                } else {
                    assert_in(&login("s3cret"), &what);
                }
                assert_refused(&login("S3cret"), &what);
                let empty = login("");
                if method == AuthMethod::Password {
                    // Called what it is before it is checked, whoever gave it, as PostgreSQL does.
                    assert_eq!(empty.refusal.map(|refusal| refusal.report.code), Some("FB618"), "{what}");
                } else {
                    assert_refused(&empty, &what);
                }
            }
        }
    }
}

/// Trust asks nothing, but a name nobody knows stays outside.
#[test]
fn trust_lets_in_whom_it_knows() {
    let begin =
        |account: Account<'_>| ClientLogin::begin(AuthMethod::Trust, "app", account, None, &mock(), &mut seeded()).1;
    assert!(matches!(begin(Account::NoSecret), Step::Done { proof: Proof::Nothing, .. }));
    assert!(matches!(begin(Account::Secret(&prepared("x"))), Step::Done { .. }));
    assert!(matches!(begin(Account::Unknown), Step::Refused(_)));
}

/// Else anyone could list the users by asking.
#[test]
fn an_unknown_user_can_not_be_told_from_a_wrong_password() {
    for method in [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256] {
        let known = Login::new(method, Some(prepared("s3cret")), plain("guess")).run();
        let unknown = Login::new(method, None, plain("guess")).run();
        assert_refused(&known, "known");
        assert_refused(&unknown, "unknown");
        assert_eq!(known.asked, unknown.asked, "the same work");
        let shape = |ended: &Ended| ended.messages.iter().map(|m| (m.tag, m.body.len())).collect::<Vec<_>>();
        assert_eq!(shape(&known), shape(&unknown), "the same messages");
        let again = Login::new(method, None, plain("guess")).run();
        assert_eq!(again.messages, unknown.messages, "the same salt at each try");
    }
    let no_secret = ClientLogin::begin(AuthMethod::ScramSha256, "app", Account::NoSecret, None, &mock(), &mut seeded());
    assert!(matches!(no_secret.1, Step::Send(_)), "a user without a secret looks the same too");
}

/// Under `md5`, unknown users go the way that most known ones go.
#[test]
fn an_unknown_user_is_sent_to_scram_where_most_users_are() {
    let begin = |mock: &MockSecret| match ClientLogin::begin(
        AuthMethod::Md5,
        "nobody",
        Account::Unknown,
        None,
        mock,
        &mut seeded(),
    ) {
        (_, Step::Send(bytes)) => sent(&bytes).body[..4].to_vec(),
        (_, step) => panic!("{step:?}"),
    };
    assert_eq!(begin(&mock().disguised(4_096, false)), [0, 0, 0, 5]);
    assert_eq!(begin(&mock().disguised(4_096, true)), [0, 0, 0, 10]);
}

/// PBKDF2 takes milliseconds: on a loop it would hold up every client.
#[test]
fn a_login_with_prepared_secrets_computes_no_pbkdf2() {
    let first = Login::new(AuthMethod::ScramSha256, Some(prepared("s3cret")), plain("s3cret")).run();
    assert_in(&first, "first");
    assert_eq!(first.asked, (0, 1), "only the first login to a server asks for one");
    assert!(first.keys.is_some());

    let secret = ServerSecret::Plain { password: Secret::new("s3cret"), keys: first.keys };
    let second = Login::new(AuthMethod::ScramSha256, Some(prepared("s3cret")), Some(secret.clone())).run();
    assert_in(&second, "second");
    assert_eq!(second.asked, (0, 0));

    let salt = [6; SALT_BYTES];
    let changed = ScramVerifier::derive(&Secret::new("s3cret"), &salt, ITERATIONS);
    let third = Login::new(AuthMethod::ScramSha256, Some(Credential::Scram(changed)), Some(secret)).run();
    assert_in(&third, "third");
    assert_eq!(third.asked, (0, 1), "keys for another salt are dropped, not believed");
    assert_eq!(third.keys.map(|keys| keys.salt.to_vec()), Some(salt.to_vec()));
}

/// The operator stores only verifiers: the client's own proof opens the server.
#[test]
fn a_proof_is_passed_through_to_a_server_with_the_same_verifier() {
    let stored = Credential::Scram(verifier("s3cret"));
    let client = Login::new(AuthMethod::ScramSha256, Some(stored.clone()), plain("s3cret")).encrypted().run();
    let passed = client.proof.as_ref().and_then(Proof::server_secret);
    assert!(matches!(passed, Some(ServerSecret::Scram(_))));
    let server = Login::new(AuthMethod::ScramSha256, Some(stored), passed.clone()).run();
    assert_in(&server, "same verifier");
    assert_eq!(server.asked, (0, 0));

    let other = ScramVerifier::derive(&Secret::new("s3cret"), &[9; SALT_BYTES], ITERATIONS);
    let server = Login::new(AuthMethod::ScramSha256, Some(Credential::Scram(other)), passed.clone()).run();
    assert!(server.failure.is_some_and(|failure| failure.contains("not the one that the client proved")));
    let server = Login::new(AuthMethod::Md5, Some(md5_of("app", "s3cret")), passed).run();
    assert!(server.failure.is_some_and(|failure| failure.contains("asked for an MD5 hash")));
}

/// A client that sent its password may be logged in anywhere, and at once where the verifier is the same.
#[test]
fn a_password_that_was_sent_serves_every_server() {
    let stored = Credential::Scram(verifier("s3cret"));
    let client = Login::new(AuthMethod::Password, Some(stored.clone()), plain("s3cret")).run();
    assert_eq!(client.asked, (1, 0), "a verifier is checked by a PBKDF2, elsewhere");
    let passed = client.proof.as_ref().and_then(Proof::server_secret);
    let server = Login::new(AuthMethod::ScramSha256, Some(stored), passed.clone()).run();
    assert_in(&server, "scram");
    assert_eq!(server.asked, (0, 0));
    assert_in(&Login::new(AuthMethod::Md5, Some(md5_of("app", "s3cret")), passed).run(), "md5");
}

/// A stored MD5 hash opens servers that ask for MD5, and no others.
#[test]
fn an_md5_hash_serves_servers_that_ask_for_it() {
    let secret = md5_of("app", "s3cret").server_secret();
    assert_in(&Login::new(AuthMethod::Md5, Some(prepared("s3cret")), secret.clone()).run(), "md5");
    for method in [AuthMethod::Password, AuthMethod::ScramSha256] {
        let ended = Login::new(method, Some(prepared("s3cret")), secret.clone()).run();
        assert!(ended.failure.is_some_and(|failure| failure.contains("we have an MD5 hash")), "{method:?}");
    }
}

/// Someone between two TLS connections has another certificate than the one the client saw.
#[test]
fn another_certificate_on_the_way_is_found() {
    let mut login = Login::new(AuthMethod::ScramSha256, Some(prepared("s3cret")), plain("s3cret")).encrypted();
    let bound = login.run();
    assert_in(&bound, "the same certificate");
    assert!(bound.messages[1].body.starts_with(b"SCRAM-SHA-256-PLUS\0"));
    login.back_tls =
        Some(TlsInfo { certificate_hash: Arc::from([8; 32]), description: "".into(), ..TlsInfo::default() });
    assert_refused(&login.run(), "another certificate");
}

/// Someone who takes -PLUS off the list must not pass for a server without it.
#[test]
fn a_downgrade_of_the_mechanism_is_found_by_either_side() {
    let mut login = Login::new(AuthMethod::ScramSha256, Some(prepared("s3cret")), plain("s3cret")).encrypted();
    let without_plus = |number: usize, message: &mut Sent| {
        if number == 0 {
            message.body = b"\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec();
        }
    };
    assert_refused(&login.run_tampered(without_plus), "the client's flag tells");
    login.rules.is_binding_required = true;
    let ended = login.run_tampered(without_plus);
    assert!(ended.failure.is_some_and(|failure| failure.contains("channel binding is required")));
    assert_in(&login.run(), "required and there");
}

/// Ed25519 certificates have no hash to bind to; logins then go without.
#[test]
fn a_certificate_without_a_hash_is_not_bound_to() {
    let mut login = Login::new(AuthMethod::ScramSha256, Some(prepared("s3cret")), plain("s3cret"));
    let unbound = TlsInfo { certificate_hash: Arc::from([]), description: "".into(), ..TlsInfo::default() };
    (login.front_tls, login.back_tls) = (Some(unbound.clone()), Some(unbound));
    let ended = login.run();
    assert_in(&ended, "unbound");
    assert!(ended.messages[1].body.starts_with(b"SCRAM-SHA-256\0"));
}

/// The rule that keeps a password off an open network.
#[test]
fn the_plain_password_goes_only_where_it_is_allowed() {
    let mut login = Login::new(AuthMethod::Password, Some(prepared("s3cret")), plain("s3cret"));
    assert_in(&login.run(), "allowed");
    login.rules.is_cleartext_allowed = false;
    let ended = login.run();
    assert!(ended.failure.is_some_and(|failure| failure.contains("without encryption")));
    assert!(ended.messages.iter().all(|message| message.tag != b'p'));
}

/// A server may trust us; with channel binding required it may not.
#[test]
fn a_server_that_asks_for_nothing_is_believed_unless_binding_is_required() {
    let mut rules = LoginRules::default();
    let mut login = ServerLogin::new("app", None, None, rules, &mut seeded());
    assert!(matches!(login.message(&[0, 0, 0, 0]), ServerStep::Ok));
    rules.is_binding_required = true;
    let mut login = ServerLogin::new("app", plain("s3cret"), Some(&tls()), rules, &mut seeded());
    assert!(matches!(login.message(&[0, 0, 0, 0]), ServerStep::Failed(_)));
}

/// 2³¹ iterations would hold a side thread for an hour.
#[test]
fn iterations_beyond_the_limit_are_not_computed() {
    let secret = Secret::new("s3cret");
    for (iterations, is_asked) in [(ITERATIONS_MAX, true), (ITERATIONS_MAX + 1, false)] {
        let mut login = ServerLogin::new("app", plain("s3cret"), None, LoginRules::default(), &mut seeded());
        let ServerStep::Send(first) = login.message(b"\0\0\0\x0aSCRAM-SHA-256\0\0") else { panic!("no answer") };
        let first = String::from_utf8(first).expect("the message is a text");
        let nonce = first.rsplit_once("r=").expect("it has a nonce").1;
        let step = login.message(format!("\0\0\0\x0br={nonce}x,s=AAAA,i={iterations}").as_bytes());
        assert_eq!(matches!(step, ServerStep::AskSaltedPassword { .. }), is_asked, "{step:?}");

        let stored = ScramVerifier { iterations, ..verifier("s3cret") };
        let account = Credential::Scram(stored);
        let (mut login, _) =
            ClientLogin::begin(AuthMethod::Password, "app", Account::Secret(&account), None, &mock(), &mut seeded());
        let step = login.message(b'p', format!("{}\0", secret.expose()).as_bytes());
        let Step::AskSaltedPassword { iterations: asked, .. } = step else { panic!("{step:?}") };
        assert_eq!(asked == iterations, is_asked);
    }
}

/// A client may begin SASL without data (RFC 4422); PostgreSQL then asks for it.
#[test]
fn a_client_that_begins_without_data_is_asked_for_it() {
    let account = prepared("s3cret");
    let begin = || {
        let account = Account::Secret(&account);
        ClientLogin::begin(AuthMethod::ScramSha256, "app", account, None, &mock(), &mut seeded()).0
    };
    let mut login = begin();
    let Step::Send(bytes) = login.message(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff") else { panic!("no answer") };
    assert_eq!(sent(&bytes), Sent { tag: b'R', body: vec![0, 0, 0, 11] });
    let Step::Send(bytes) = login.message(b'p', b"n,,n=,r=abc") else { panic!("no answer") };
    let direct = begin().message(b'p', b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc");
    let Step::Send(expected) = direct else { panic!("no answer") };
    assert_eq!(bytes, expected);
}
