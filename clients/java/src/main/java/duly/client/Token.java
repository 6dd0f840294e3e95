package duly.client;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Pattern;

/** A bearer token, from a text or from a file that is read for each opening. */
final class Token {
    private static final int BYTES_MAX = 16 * 1024;
    private static final Pattern FORM = Pattern.compile("[!-~]+");

    private final Path file;
    private String text;

    /** Throws IllegalArgumentException, which never shows it, where there is no token. */
    Token(String text) {
        this.text = checked(text, "token");
        file = null;
    }

    /** Throws IllegalArgumentException where the file holds no token. */
    Token(Path file) {
        this.file = file;
        try {
            text = read();
        } catch (IOException error) {
            throw new IllegalArgumentException(file + ": can't be read: " + error.getMessage());
        }
    }

    /** The token as it is now. While its file cannot be read, it is the last one that could. */
    synchronized String now() {
        if (file != null) {
            try {
                text = read();
            } catch (IOException | IllegalArgumentException error) {
                return text; // it is being replaced
            }
        }
        return text;
    }

    private String read() throws IOException {
        try (var in = Files.newInputStream(file)) {
            String found = new String(in.readNBytes(BYTES_MAX + 2), StandardCharsets.ISO_8859_1);
            return checked(found.strip(), "token file " + file);
        }
    }

    private static String checked(String text, String place) {
        if (text.length() > BYTES_MAX || !FORM.matcher(text).matches()) {
            throw new IllegalArgumentException(
                    place + ": should be one token, without spaces and other signs than ASCII has");
        }
        return text;
    }
}
