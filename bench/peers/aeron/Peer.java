import io.aeron.Aeron;
import io.aeron.Publication;
import io.aeron.Subscription;
import io.aeron.driver.MediaDriver;
import io.aeron.driver.ThreadingMode;
import io.aeron.logbuffer.FragmentHandler;
import java.util.Scanner;
import org.agrona.concurrent.UnsafeBuffer;

/**
 * One of two processes that send messages of 64 bytes by Aeron IPC, as boost/peer.cpp does by
 * Boost: Peer first|second echo|copy NAME FOLDER. The first also has the media driver, of one
 * thread, which with the defaults sleeps when it has nothing to do; both others spin.
 */
public final class Peer {
	static final int SIZE = 64;

	public static void main(String[] args) {
		boolean first = args[0].equals("first"), echo = args[1].equals("echo");
		String dir = "/dev/shm/" + args[2];
		MediaDriver driver = !first ? null : MediaDriver.launch(new MediaDriver.Context().aeronDirectoryName(dir)
			.threadingMode(ThreadingMode.SHARED).dirDeleteOnStart(true).dirDeleteOnShutdown(true));
		String channel = "aeron:ipc?term-length=4m";
		try (Aeron aeron = Aeron.connect(new Aeron.Context().aeronDirectoryName(dir));
			Publication out = aeron.addExclusivePublication(channel, first ? 1 : 2);
			Subscription in = aeron.addSubscription(channel, first ? 2 : 1)) {
			UnsafeBuffer message = new UnsafeBuffer(new byte[SIZE]);
			byte[] received = new byte[SIZE];
			FragmentHandler copy = (buffer, offset, length, header) -> buffer.getBytes(offset, received, 0, length);
			Scanner lines = new Scanner(System.in);
			while (lines.hasNextLong()) {
				long n = lines.nextLong();
				if (!first) {
					System.out.println("ready");
				}
				if (echo) {
					for (; n > 0; n--) {
						if (first) {
							send(out, message);
						}
						receive(in, copy, 1);
						if (!first) {
							send(out, message);
						}
					}
				} else if (first) {
					for (; n > 0; n--) {
						send(out, message);
					}
				} else {
					receive(in, copy, n);
				}
				System.out.println("done");
			}
		} finally {
			if (driver != null) {
				driver.close();
			}
		}
	}

	static void send(Publication out, UnsafeBuffer message) {
		for (long at; (at = out.offer(message)) < 0;) {
			if (at == Publication.CLOSED || at == Publication.MAX_POSITION_EXCEEDED) {
				throw new IllegalStateException(Publication.errorString(at));
			}
			Thread.onSpinWait();
		}
	}

	static void receive(Subscription in, FragmentHandler copy, long n) {
		while (n > 0) {
			int k = in.poll(copy, (int)Math.min(n, 64));
			if (k == 0) {
				Thread.onSpinWait();
			}
			n -= k;
		}
	}
}
