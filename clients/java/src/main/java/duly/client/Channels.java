package duly.client;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** The connection to a server, which is made anew for later calls when the files of TLS have changed. */
final class Channels {
    private final String target;
    private final Tls tls;
    private List<FileTime> times;
    private ManagedChannel channel;

    /** Throws IllegalArgumentException where the files of TLS cannot be used. */
    Channels(String target, Tls tls) {
        this.target = target;
        this.tls = tls;
        times = times();
        channel = make();
    }

    /** The channel for the next call. The one before lives as long as its calls. */
    synchronized ManagedChannel channel() {
        List<FileTime> now = times();
        if (!now.equals(times)) {
            try {
                ManagedChannel newer = make();
                channel.shutdown();
                channel = newer;
                times = now;
            } catch (IllegalArgumentException error) {
                return channel; // the files are being replaced: until they fit together, those before will do
            }
        }
        channel.resetConnectBackoff(); // the stream has waited by itself
        return channel;
    }

    synchronized void close() {
        channel.shutdownNow();
    }

    private ManagedChannel make() {
        ManagedChannelBuilder<?> builder = Grpc.newChannelBuilder(target, credentials())
                .maxInboundMessageSize(Integer.MAX_VALUE) // the server bounds what it sends
                .disableRetry() // a frame is never sent twice
                // Clock pings make data flow each 10 s, so that no server takes keepalive at this pace for abuse.
                .keepAliveTime(10, TimeUnit.SECONDS)
                .keepAliveTimeout(5, TimeUnit.SECONDS);
        if (Target.isLocal(target)) {
            builder.proxyDetector(address -> null); // no proxy reaches this machine
        }
        if (tls != null && tls.serverName() != null) {
            builder.overrideAuthority(tls.serverName());
        }
        return builder.build();
    }

    private ChannelCredentials credentials() {
        if (tls == null) {
            return InsecureChannelCredentials.create();
        }
        var builder = TlsChannelCredentials.newBuilder();
        try {
            if (tls.ca() != null) {
                builder.trustManager(tls.ca().toFile());
            }
            if (tls.certificate() != null) {
                builder.keyManager(tls.certificate().toFile(), tls.key().toFile());
            }
        } catch (IOException | IllegalArgumentException error) {
            throw new IllegalArgumentException("tls: " + error.getMessage());
        }
        return builder.build();
    }

    private List<FileTime> times() {
        if (tls == null) {
            return List.of();
        }
        return Stream.of(tls.ca(), tls.certificate(), tls.key())
                .filter(Objects::nonNull)
                .map(Channels::time)
                .toList();
    }

    private static FileTime time(Path file) {
        try {
            return Files.getLastModifiedTime(file);
        } catch (IOException error) {
            return FileTime.fromMillis(0);
        }
    }
}
