package duly.client;

import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Which targets can be a server's, and which of them are on this machine. */
final class Target {
    private static final Pattern WITH_SCHEME = Pattern.compile("(unix|dns|ipv4|ipv6|xds):.+");
    private static final Pattern HOST_AND_PORT = Pattern.compile("(\\[[^\\[\\]]+\\]|[^:\\[\\]/]+):([0-9]{1,5})");

    private Target() {}

    /** Throws IllegalArgumentException where it is no server's. */
    static void check(String target) {
        Matcher found = HOST_AND_PORT.matcher(target);
        boolean plain = found.matches() && port(found) >= 1 && port(found) <= 65535;
        if (!plain && !WITH_SCHEME.matcher(target).matches()) {
            throw new IllegalArgumentException("target \"" + target
                    + "\": expected HOST:PORT, such as 127.0.0.1:8500 or [::1]:8500, or unix:PATH");
        }
    }

    private static int port(Matcher found) {
        return Integer.parseInt(found.group(2));
    }

    /** Whether it is on this machine. */
    static boolean isLocal(String target) {
        if (target.startsWith("unix:")) {
            return true;
        }
        String address = target.replaceFirst("^(dns|ipv4|ipv6):(//[^/]*/)?", "");
        boolean bracketed = address.startsWith("[") && address.contains("]");
        String host = bracketed ? address.substring(1, address.indexOf(']')) : address.replaceFirst(":[0-9]+$", "");
        String name = host.replaceFirst("\\.$", "").toLowerCase(Locale.ROOT);
        String plain = name.replaceFirst("^::ffff:", "");
        return name.equals("localhost")
                || name.endsWith(".localhost")
                || name.equals("ip6-localhost")
                || name.equals("::1")
                || name.equals("::")
                || plain.equals("0.0.0.0")
                || plain.matches("127(\\.[0-9]{1,3}){3}");
    }
}
