//! What listeners say about TLS and about certificates.

use petrel_net::certificate::user::CertificateUser;
use petrel_net::tls::{Demand, TlsVersion};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::*;

const LISTENER: &str = "[[listener]]\nprotocol = \"mqtts\"\naddress = \"127.0.0.1:1\"\n\
                        cert = \"a.pem\"\nkey = \"a.pem\"\n";

/// A folder with `a.pem` and `b.pem`, certificates with their keys, and an authority's `ca.pem`.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write =
        |name: &str, text: String| fs::write(folder.path().join(name), text).expect("written");
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("made");
        let text = made.cert.pem() + &made.signing_key.serialize_pem();
        write(&format!("{name}.pem"), text);
    }
    let mut params = CertificateParams::new([]).expect("good");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("made");
    write("ca.pem", params.self_signed(&key).expect("made").pem());
    write("empty.crl", String::new());
    folder
}

fn said(text: &str) -> String {
    let problems = Config::parse(text, folder().path()).expect_err(text).into_iter();
    problems.map(|it| format!("{}:{}: {}\n", it.line, it.column, it.text)).collect()
}

#[test]
fn everything_that_a_listener_may_ask_for_is_read() {
    let folder = folder();
    let text = format!(
        "{LISTENER}client_certificate = \"optional\"\nclient_ca = \"ca.pem\"\n\
         certificate_user = \"san_uri\"\ntls_minimum = \"1.3\"\n\
         tls_suites = [\"TLS_AES_256_GCM_SHA384\"]\ntls_groups = [\"secp384r1\", \"x25519\"]\n\
         authentication = [\"devices\"]\n\
         [[listener.certificate]]\ncert = \"b.pem\"\nkey = \"b.pem\"\n\
         [[authenticator]]\nname = \"devices\"\nkind = \"certificate\"\n\
         [engine]\ncertificate_warn_days = 3\n"
    );
    let config = Config::parse(&text, folder.path()).expect("nothing is wrong");
    assert_eq!(config.engine.certificate_warn_days, 3);
    let Security { further, policy, clients, user, proxies } = &config.listeners[0].security;
    assert_eq!(*proxies, None);
    let path = |name: &str| folder.path().join(name);
    assert_eq!(further[..], [TlsFiles { cert: path("b.pem"), key: path("b.pem") }]);
    assert_eq!((policy.minimum, *user), (TlsVersion::Tls13, CertificateUser::SanUri));
    let clients = clients.as_ref().expect("they are asked");
    assert_eq!((clients.demand, &clients.ca), (Demand::Optional, &path("ca.pem")));
    let files: Vec<_> = config.listeners[0].tls_files().map(Path::to_owned).collect();
    assert_eq!(files, ["a.pem", "a.pem", "b.pem", "b.pem", "ca.pem"].map(path));
    let summary = config.summary().to_string();
    for part in [
        "authenticator: devices, certificates of clients\n",
        "a.pem, one further certificate, TLS 1.3 and later, suites TLS_AES_256_GCM_SHA384, \
         groups secp384r1 x25519, client certificates optional, by ",
        "ca.pem, without a list of revoked ones, anonymous clients refused, asks devices\n",
    ] {
        assert!(summary.contains(part), "{summary}");
    }
}

#[test]
fn what_is_wrong_with_it_is_told_at_its_place() {
    let asking = "client_certificate = \"required\"\n";
    let devices = "[[authenticator]]\nname = \"devices\"\nkind = \"certificate\"\n";
    for (more, why) in [
        (asking.to_owned(), "6:22: `client_certificate` needs `client_ca`"),
        (format!("{asking}client_ca = \"no.pem\"\n"), "7:13: the client authority file "),
        (
            format!("{asking}client_ca = \"ca.pem\"\nclient_crl = [\"empty.crl\"]\n"),
            "8:14: the file ",
        ),
        ("client_ca = \"ca.pem\"\n".to_owned(), "6:13: `client_ca` has no use without client cert"),
        ("certificate_user = \"cn\"\n".to_owned(), "6:20: `certificate_user` has no use here"),
        (format!("{asking}certificate_user = \"dn\"\n"), "7:20: `certificate_user` must be"),
        ("tls_minimum = \"1.1\"\n".to_owned(), "6:15: `tls_minimum` must be \"1.2\" or \"1.3\""),
        (
            "tls_suites = [\"RC4\"]\n".to_owned(),
            "6:14: there is no cipher suite \"RC4\"; there are TLS_",
        ),
        (
            "tls_groups = [\"p256\"]\n".to_owned(),
            "6:14: there is no key exchange group \"p256\"; there are X",
        ),
        (
            "tls_minimum = \"1.3\"\ntls_suites = [\"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\"]\n"
                .to_owned(),
            "7:14: all of these suites are of TLS 1.2",
        ),
        (
            "[[listener.certificate]]\ncert = \"b.pem\"\n".to_owned(),
            "this [[listener.certificate]] has no `key`",
        ),
        (
            "[[listener.certificate]]\ncert = \"b.pem\"\nkey = \"no.pem\"\n".to_owned(),
            "8:7: the private key file ",
        ),
        ("[[listener.certificate]]\ncrt = \"b.pem\"\n".to_owned(), "did you mean `cert`?"),
        ("certificate = \"b.pem\"\n".to_owned(), "`certificate` must be sections"),
        (
            format!("authentication = [\"devices\"]\n{devices}"),
            "6:18: `authentication` asks for the user of",
        ),
        (format!("{devices}file = \"a\"\n"), "9:8: `file` has no use for kind = \"certificate\""),
    ] {
        let said = said(&format!("{LISTENER}{more}"));
        assert!(said.contains(why), "{more}\n{said}");
    }
    let plain = "[[listener]]\nprotocol = \"ws\"\naddress = \"127.0.0.1:1\"\ntls_minimum = \"1.3\"\n\
                 client_certificate = \"none\"\n";
    let said = said(plain);
    for key in ["tls_minimum", "client_certificate"] {
        assert!(said.contains(&format!("`{key}` has no use for protocol \"ws\"")), "{said}");
    }
}

#[test]
fn proxies_that_are_believed_are_named() {
    let base = "[[listener]]\nprotocol = \"mqtt\"\naddress = \"127.0.0.1:1\"\n";
    let good = "proxy_protocol = true\nproxy_trusted = [\"10.0.0.0/8\", \"::1\"]\n";
    let config = Config::parse(&format!("{base}{good}"), Path::new("")).expect("good");
    let proxies = config.listeners[0].security.proxies.as_ref().expect("there are some");
    assert!(proxies.name_users && proxies.trusts("10.1.2.3".parse().expect("an address")));
    let summary = config.summary().to_string();
    assert!(summary.contains("127.0.0.1:1, behind proxies in 10.0.0.0/8 ::1/128, "), "{summary}");
    // They say whose certificate a client has shown to them.
    let devices = "authentication = [\"devices\"]\n[[authenticator]]\nname = \"devices\"\n\
                   kind = \"certificate\"\n";
    assert!(Config::parse(&format!("{base}{good}{devices}"), Path::new("")).is_ok());
    for (more, why) in [
        ("proxy_protocol = true\n".to_owned(), "4:18: `proxy_protocol` needs `proxy_trusted`"),
        (
            good.replace("\"10.0.0.0/8\", \"::1\"", ""),
            "5:17: `proxy_protocol` needs `proxy_trusted`",
        ),
        (good.replace("/8", "/33"), "5:17: \"10.0.0.0/33\" is no address and no range"),
        (good.replace("true", "false"), "5:17: `proxy_trusted` has no use without"),
        (
            format!("{good}certificate_user = \"san_dns\"\n"),
            "6:20: of a client's certificate a proxy says",
        ),
        (
            format!("{good}certificate_user = \"none\"\n{devices}"),
            "7:18: `authentication` asks for the user",
        ),
    ] {
        let said = said(&format!("{base}{more}"));
        assert!(said.contains(why), "{more}\n{said}");
    }
}
