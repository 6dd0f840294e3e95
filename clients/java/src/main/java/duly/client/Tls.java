package duly.client;

import java.nio.file.Path;

/**
 * How to speak TLS with a server. All files are PEM; they are read again when they change, for what opens then.
 *
 * @param ca the CA that the server's certificate must be of; null: those that Java trusts
 * @param certificate the client's own certificate, where the server asks for one; null: none
 * @param key its private key, in PKCS #8; null: none
 * @param serverName the name that the server's certificate must have; null: the host of the target
 */
public record Tls(Path ca, Path certificate, Path key, String serverName) {
    /** Throws IllegalArgumentException where a certificate comes without its key, or the other way round. */
    public Tls {
        if ((certificate == null) != (key == null)) {
            throw new IllegalArgumentException("tls: certificate and key go together");
        }
    }

    /** TLS with a server whose certificate is of one of the CAs that Java trusts. */
    public static Tls trusted() {
        return new Tls(null, null, null, null);
    }

    /** TLS with a server whose certificate is of this CA. */
    public static Tls of(Path ca) {
        return new Tls(ca, null, null, null);
    }

    /** The same with a certificate of the client's own. */
    public Tls identity(Path certificate, Path key) {
        return new Tls(ca, certificate, key, serverName);
    }

    /** The same where the server's certificate has another name than the target's host. */
    public Tls serverName(String name) {
        return new Tls(ca, certificate, key, name);
    }
}
