//! Lines as people write them in traces.

use super::*;

/// Reads `line`, prints what it gave, and wants the same line.
fn same(line: &str) -> Vec<u8> {
    let (side, bytes) = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!(print(side, &bytes), line);
    bytes
}

fn reason(line: &str) -> String {
    parse(line).expect_err(line).to_string()
}

#[test]
fn messages_of_clients_are_lines() {
    assert_eq!(same(r#"F Query "select 1""#), b"Q\0\0\0\x0dselect 1\0");
    assert_eq!(same("F Sync"), b"S\0\0\0\x04");
    assert_eq!(same(r#"F Parse "s1" "select $1" [23, 25]"#)[..5], *b"P\0\0\0\x1b");
    same(r#"F Parse "" "" []"#);
    same(r#"F Bind "" "s1" [] ["1", NULL, "", x"00ff"] [0, 1]"#);
    same(r#"F Describe S "s1""#);
    same(r#"F Close P """#);
    same(r#"F Execute "" 0"#);
    same(r#"F Execute "portal" -1"#);
    same("F Flush");
    same("F Terminate");
    same(r#"F CopyData "1\t\\N\n""#);
    same("F CopyDone");
    same(r#"F CopyFail "no more""#);
    same(r#"F PasswordMessage "secret""#);
    same(r#"F SASLInitialResponse "SCRAM-SHA-256" "n,,n=,r=abc""#);
    same(r#"F SASLInitialResponse "SCRAM-SHA-256" NULL"#);
    same(r#"F SASLResponse "c=biws,r=abc,p=def""#);
}

#[test]
fn messages_of_servers_are_lines() {
    assert_eq!(same("B ReadyForQuery I"), b"Z\0\0\0\x05I");
    assert_eq!(same("B AuthenticationOk"), b"R\0\0\0\x08\0\0\0\0");
    same("B AuthenticationCleartextPassword");
    same(r#"B AuthenticationMD5Password x"01020304""#);
    same(r#"B AuthenticationSASL ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]"#);
    same(r#"B AuthenticationSASLContinue "r=abc,s=c2FsdA==,i=4096""#);
    same(r#"B AuthenticationSASLFinal "v=abc""#);
    same(r#"B ParameterStatus "TimeZone" "UTC""#);
    same(r#"B BackendKeyData 4711 x"0102030405060708""#);
    same(r#"B NegotiateProtocolVersion 3.2 ["_pq_.x"]"#);
    same(r#"B ErrorResponse S "ERROR" V "ERROR" C "42601" M "syntax error" P "8""#);
    same(r#"B NoticeResponse S "WARNING" C "01000" M "say \"hi\"""#);
    same(r#"B CommandComplete "SELECT 1""#);
    same(r#"B NotificationResponse 12 "channel" """#);
    same("B ParameterDescription [23, 0]");
    same(r#"B RowDescription [["id", 23], ["name", 16385, 2, 25, -1, -1, 0]]"#);
    same("B RowDescription []");
    same(r#"B DataRow ["1", NULL, "grüße\xff\x00 to all"]"#);
    for name in ["ParseComplete", "BindComplete", "CloseComplete", "NoData", "EmptyQueryResponse", "PortalSuspended"] {
        same(&format!("B {name}"));
    }
    for name in ["CopyInResponse", "CopyOutResponse", "CopyBothResponse"] {
        same(&format!("B {name} 0 [0, 1]"));
    }
    same(r#"B CopyData "row""#);
    same("B CopyDone");
}

#[test]
fn first_packets_are_lines() {
    for line in [
        r#"F Startup 3.0 "user" "app" "database" "shop""#,
        r#"F Startup 3.2 "user" "app" "_pq_.x" """#,
        "F SSLRequest",
        "F GSSENCRequest",
        r#"F CancelRequest 4711 x"01020304""#,
    ] {
        let (_, bytes) = parse(line).unwrap();
        assert_eq!(print_first(&bytes), line);
    }
    assert_eq!(print_first(b"\x16\x03\x01"), r#"F Bytes x"160301""#);
}

/// A view that drops a byte would let a wrong trace pass.
#[test]
fn what_a_view_would_drop_is_printed_raw() {
    assert_eq!(print(Side::Backend, b"Z\0\0\0\x05?"), r#"B Frame "Z" "?""#);
    assert_eq!(print(Side::Frontend, b"S\0\0\0\x05x"), r#"F Frame "S" "x""#);
    assert_eq!(print(Side::Frontend, b"q\0\0\0\x05\0"), r#"F Frame "q" x"00""#);
    assert_eq!(print(Side::Backend, b"E\0\0\0\x08\x01a\0\0"), r#"B Frame "E" x"01610000""#);
    assert_eq!(print(Side::Backend, b"Z\0\0\0\x05II"), r#"B Bytes x"5a000000054949""#);
}

#[test]
fn a_stream_is_a_line_a_frame_and_a_rest() {
    let lines = print_all(Side::Backend, b"1\0\0\0\x042\0\0\0\x04Z\0\0\0\x05IC\0\0");
    assert_eq!(lines, ["B ParseComplete", "B BindComplete", "B ReadyForQuery I", r#"B Bytes x"430000""#]);
}

#[test]
fn space_between_fields_and_words_of_any_script_are_read() {
    let (_, bytes) = parse("  F\tBind  \"\" \"\" [ 0 ,1 ]  [\"grüße\"] []  \n").unwrap();
    assert!(bytes.windows(7).any(|window| window == "grüße".as_bytes()));
}

#[test]
fn a_line_that_is_not_understood_says_why() {
    assert_eq!(reason(""), "a field is missing at the end of the line");
    assert_eq!(reason("X Sync"), "a line begins with F or B, not with X");
    assert_eq!(reason("F ParseComplete"), "unknown message ParseComplete");
    assert_eq!(reason("F Sync 1"), "1 fields too many");
    assert_eq!(reason("F Query"), "a field is missing at the end of the line");
    assert_eq!(reason(r#"F Query "a\x00""#), "a string has a NUL in it");
    assert_eq!(reason(r#"F Query "a"#), "a string has no end");
    assert_eq!(reason(r#"F Query "\q""#), "an unknown escape in a string");
    assert_eq!(reason(r#"F Query "\xg0""#), "not two hexadecimal digits");
    assert_eq!(reason(r#"F Query x"123""#), "an odd number of hexadecimal digits");
    assert_eq!(reason(r#"F Execute "" many"#), "many is not a number that fits here");
    assert_eq!(reason(r#"F Parse "" "" [1"#), "a list has no ] at its end, or no comma between its items");
    assert_eq!(reason("F Frame [[[]]] x"), "a list is too deep");
    assert_eq!(reason("F Startup three"), "three is not a version");
    assert_eq!(reason("B ReadyForQuery IT"), "expected one letter, found IT");
    assert_eq!(reason("F ]"), "unexpected ]");
}
