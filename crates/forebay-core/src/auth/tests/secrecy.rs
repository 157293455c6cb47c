//! What `{:?}` shows, in logs and panics, of values that hold secrets.

use std::fmt::Debug;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::*;

const PASSWORD: &str = "canary-3f9a";

/// Forms in which a secret could leak.
fn forms() -> Vec<String> {
    let keys = ScramKeys::from_salted(
        &salt_password(&Secret::new(PASSWORD), &[5; SALT_BYTES], ITERATIONS),
        &[5; SALT_BYTES],
        ITERATIONS,
    );
    let stored_key = keys.verifier().stored_key;
    let hash = md5::stored_hash("app", PASSWORD);
    let mut forms = vec![PASSWORD.to_owned(), format!("{:?}", PASSWORD.as_bytes())];
    for key in [&keys.client_key, &keys.server_key, &stored_key, &hash] {
        let list = format!("{:?}", &key.expose()[..4]);
        forms.push(list.trim_matches(['[', ']']).to_owned());
        forms.push(BASE64.encode(key.expose()));
        forms.push(key.expose()[..4].iter().map(|byte| format!("{byte:02x}")).collect());
    }
    forms.push(String::from_utf8(hash.expose().to_vec()).expect("digits are a text"));
    forms
}

fn assert_hides(what: &dyn Debug) {
    let shown = [format!("{what:?}"), format!("{what:#?}").split_whitespace().collect::<Vec<_>>().join(" ")];
    for form in forms() {
        for shown in &shown {
            assert!(!shown.contains(&form), "{form} shows in {shown}");
        }
    }
}

/// A log or a panic message must not hand out a password.
#[test]
fn no_value_prints_its_secret() {
    let secret = Secret::new(PASSWORD);
    let credentials = [prepared(PASSWORD), md5_of("app", PASSWORD), Credential::Scram(verifier(PASSWORD))];
    let keys = ScramKeys::from_salted(&salt_password(&secret, &[5; SALT_BYTES], ITERATIONS), &[5; 16], ITERATIONS);
    assert_hides(&secret);
    assert_hides(&keys);
    assert_hides(&SecretKey::new(*keys.client_key.expose()));
    assert_hides(&keys.verifier().to_secret());
    assert_hides(&Credential::parse(&format!("SCRAM-SHA-256${PASSWORD}")));
    for secret in [plain(PASSWORD), credentials[1].server_secret(), Some(ServerSecret::Scram(keys.clone()))] {
        assert_hides(&secret);
        assert_hides(&ServerLogin::new("app", secret, None, LoginRules::default(), &mut seeded()));
    }
    assert_hides(&Proof::Password(secret.clone(), Some(keys.clone())));
    assert_hides(&Proof::Scram(keys));
    let turn = crate::question::Turn::Own;
    assert_hides(&crate::question::Question::SaltPassword {
        password: secret,
        salt: Arc::from([1]),
        iterations: 1,
        turn,
    });
    for credential in &credentials {
        assert_hides(credential);
        assert_hides(&Account::Secret(credential));
        assert_hides(&crate::question::Answer::Secret(Some(credential.clone())));
    }
}

/// The same for logins in every state, and for every step they yield.
#[test]
fn no_login_prints_its_secret_in_any_state() {
    let credentials = [
        prepared(PASSWORD),
        md5_of("app", PASSWORD),
        Credential::Scram(verifier(PASSWORD)),
        Credential::Plain { password: Secret::new(PASSWORD), verifier: None },
    ];
    for method in [AuthMethod::Trust, AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256] {
        for credential in &credentials {
            let mut random = seeded();
            let rules = LoginRules { is_cleartext_allowed: true, is_binding_required: false };
            let mut back = ServerLogin::new("app", plain(PASSWORD), None, rules, &mut random);
            let (mut front, mut step) =
                ClientLogin::begin(method, "app", Account::Secret(credential), None, &mock(), &mut random);
            loop {
                assert_hides(&front);
                assert_hides(&step);
                let request = match step {
                    Step::Send(bytes) => sent(&bytes),
                    Step::AskSaltedPassword { password, salt, iterations } => {
                        step = front.salted(&salt_password(&password, &salt, iterations));
                        continue;
                    }
                    Step::Done { .. } | Step::Refused(_) | Step::AskVerdict { .. } => break,
                };
                let mut answer = back.message(&request.body);
                assert_hides(&answer);
                assert_hides(&back);
                if let ServerStep::AskSaltedPassword { password, salt, iterations } = answer {
                    answer = back.salted(&salt_password(&password, &salt, iterations));
                    assert_hides(&answer);
                    assert_hides(&back);
                }
                let ServerStep::Send(bytes) = answer else { panic!("{answer:?}") };
                let answer = sent(&bytes);
                step = front.message(answer.tag, &answer.body);
            }
        }
    }
}
